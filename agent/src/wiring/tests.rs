use super::*;

#[test]
fn places_for_connections_leave_files_for_the_agent() {
    for files in [4, 64, 300, 1024, 20_000, 65_536, 1_048_576, u64::MAX] {
        let slots = slots(files);
        let most = (slots.whole + slots.spare) as u64;
        assert!(2 * most <= files.max(4) && most <= CONNECTIONS as u64, "{files}: {slots:?}");
        assert!(slots.spare >= 1 && slots.group >= 1 && slots.group <= slots.whole, "{files}: {slots:?}");
    }
    let usual = slots(1024);
    assert_eq!((usual.whole, usual.spare, usual.group), (336, 48, 294));
    assert!(slots(20_000).group > 5_000, "5,000 connections of one process are served");
}
