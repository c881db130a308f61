use tokio::time::advance;

use super::*;

#[tokio::test(start_paused = true)]
async fn the_first_is_told_and_the_rest_is_counted() {
    let mut refusals = Refusals::default();
    assert_eq!(refusals.taken("a"), None);
    assert!(refusals.refused("a"));
    assert!(refusals.refused("b"), "each group for itself");
    for _ in 0..7 {
        assert!(!refusals.refused("a"));
    }
    assert_eq!(refusals.taken("a"), None, "ten seconds have not passed");
    advance(PAUSE).await;
    assert_eq!(refusals.taken("c"), None);
    assert_eq!(refusals.taken("a"), Some(7));
    assert!(!refusals.refused("a"));
    assert_eq!(refusals.taken("a"), None);
    advance(PAUSE).await;
    assert_eq!(refusals.taken("a"), Some(1));
    advance(PAUSE).await;
    assert_eq!(refusals.taken("a"), None, "nothing was refused since, and the group is forgotten");
    assert!(refusals.refused("a"));
}

#[tokio::test(start_paused = true)]
async fn many_groups_are_not_kept() {
    let mut refusals = Refusals::default();
    for group in 0..3 * GROUPS {
        assert!(refusals.refused(&group.to_string()));
        assert!(refusals.groups.len() <= GROUPS);
    }
}
