//! Any text of cgroup or mountinfo is read or refused. A found ID is part of the text, a path without an ID changes
//! nothing, and the usual path of the found container gives the same result, from a cgroup file and from a mount.
#![no_main]

use attestors::container::{Container, from_cgroup, from_cgroup_legacy, from_mountinfo};

libfuzzer_sys::fuzz_target!(|text: &str| {
    for found in [from_cgroup(text), from_mountinfo(text)].into_iter().flatten().flatten() {
        assert!(stands_in(&found, text), "{found:?}");
        let pod = found.pod_uid.as_ref().map(|uid| format!("/kubepods/burstable/pod{uid}"));
        let path = format!("{}/{}", pod.unwrap_or_default(), found.id);
        let mount = format!("868 867 0:38 {path} /sys/fs/cgroup ro - cgroup2  rw");
        assert_eq!(from_mountinfo(&mount).ok(), Some(Some(found.clone())));
        assert_eq!(from_cgroup(&format!("0::{path}")).ok(), Some(Some(found)));
    }
    if let Ok(found) = from_cgroup(text) {
        assert_eq!(from_cgroup(&format!("0::/init.scope\n{text}")).ok(), Some(found));
    }
    if let Ok(Some(found)) = from_cgroup_legacy(text) {
        assert!(is_id(&found.id) && text.contains(&found.id), "{found:?}");
    }
});

fn stands_in(found: &Container, text: &str) -> bool {
    let pod = found.pod_uid.as_ref().map(|uid| format!("pod{uid}"));
    is_id(&found.id)
        && text.contains(&found.id)
        && pod.is_none_or(|pod| pod.len() == 39 && text.replace('_', "-").contains(&pod))
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
