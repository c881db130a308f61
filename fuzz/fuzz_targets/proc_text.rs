//! Any text of `/proc` is read or refused, and the command name in it has no influence.
#![no_main]

use attestors::proc::{credentials, start_time};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(found) = credentials(text) {
        let more = format!("{text}\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t0\n");
        assert_eq!(credentials(&more), Ok(found), "the first lines count");
    }
    // The kernel escapes newlines in this file, but not in `stat`.
    if !text.contains(['\n', '\r']) {
        let status = format!("Name:\t{text}\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n");
        let found = credentials(&status).expect("what the kernel writes is read");
        assert_eq!((found.uid, found.gid, found.groups), (2, 6, vec![9, 10]));
    }
    let _ = start_time(text);
    let stat = format!("7 ({text}) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2\n");
    assert_eq!(start_time(&stat), Some(98765));
});
