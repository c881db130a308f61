use super::*;

#[tokio::test(start_paused = true)]
async fn a_few_lines_of_a_kind_and_group_in_ten_seconds() {
    let complaints = Complaints::default();
    for _ in 0..LINES {
        assert!(complaints.admit("pod:a", "nack"));
    }
    for _ in 0..1000 {
        assert!(!complaints.admit("pod:a", "nack"));
    }
    assert!(complaints.admit("pod:b", "nack") && complaints.admit("pod:a", "attestation"));
    tokio::time::advance(QUIET).await;
    assert!(complaints.admit("pod:a", "nack"));
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_bounded() {
    let complaints = Complaints::default();
    let admitted = (0..5000).filter(|n| complaints.admit(&format!("uid:{n}"), "nack")).count();
    assert_eq!((admitted, complaints.0.lock().unwrap().len()), (KEPT, KEPT));
    tokio::time::advance(QUIET).await;
    assert!(complaints.admit("uid:5000", "nack"));
    assert_eq!(complaints.0.lock().unwrap().len(), 1);
}

#[test]
fn words_are_cut_and_escaped() {
    assert_eq!(Words("no \u{1b}[31m\nred").to_string(), r"no \u{1b}[31m\nred");
    let long = "ä".repeat(300);
    let shown = Words(&long).to_string();
    assert_eq!(shown, format!("{}… (344 bytes more)", "ä".repeat(128)));
}
