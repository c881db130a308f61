use std::path::PathBuf;

use tokio::time::Instant;
use transport::Leftover;

use super::*;

fn in_the_way() -> BindError {
    BindError::InTheWay { path: PathBuf::from("/run/api.sock"), what: Leftover::File }
}

#[tokio::test(start_paused = true)]
async fn tries_until_it_works_with_growing_pauses() {
    let start = Instant::now();
    let mut tries = Vec::new();
    let bound = bound(in_the_way(), || {
        tries.push(start.elapsed().as_secs());
        if tries.len() < 8 { Err(in_the_way()) } else { Ok("bound") }
    });
    assert_eq!(bound.await.unwrap(), "bound");
    assert_eq!(tries, [1, 3, 7, 15, 31, 61, 91, 121]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_mended_ends_it() {
    let in_use = || BindError::InUse(PathBuf::from("/run/api.sock"));
    let never = || -> Result<(), _> { panic!("not tried again") };
    assert!(matches!(bound(in_use(), never).await, Err(BindError::InUse(_))));
    let later = bound::<()>(in_the_way(), || Err(in_use())).await;
    assert!(matches!(later, Err(BindError::InUse(_))));
}
