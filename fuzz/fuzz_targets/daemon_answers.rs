//! Any answer of Docker, Podman or a D-Bus bus is read or refused. Of a container, what is kept is bounded, and is what
//! another reader finds.
#![no_main]

use attestors::workload::docker::{Inspected, parse_container, parse_image_id};
use attestors::workload::systemd::{FIXED, Head, parse_reply};
use serde_json::Value;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(found) = parse_container(data, ID) {
        bounded(&found);
        if let Ok(answer) = serde_json::from_slice::<Value>(data) {
            same(&found, &answer["Config"]);
        }
    }
    if let Ok(Some(id)) = parse_image_id(data) {
        assert!(!id.is_empty() && id.len() <= 4096);
    }
    if let Some((head, rest)) = data.split_first_chunk::<FIXED>()
        && let Ok(head) = Head::parse(*head)
    {
        assert!(head.rest() <= 65 * 1024);
        if let Ok(Some(reply)) = parse_reply(head, rest) {
            let text = reply.text.unwrap_or_default();
            assert!(text.is_empty() || data.windows(text.len()).any(|part| part == text.as_bytes()));
        }
    }
});

fn bounded(found: &Inspected) {
    let lengths = || found.selectors.iter().map(|selector| selector.value.len());
    assert!(lengths().all(|length| length <= 4096) && lengths().sum::<usize>() <= 3 * 64 * 1024);
    assert!(found.selectors.len() <= 2 * 1024 + 1);
}

/// Whatever the other reader finds is there, unless something was left out. It keeps only the last of members of one name.
fn same(found: &Inspected, config: &Value) {
    if found.left_out > 0 {
        return;
    }
    let has = |value: String| assert!(found.selectors.iter().any(|one| *one.value == *value), "{value}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for (key, value) in config["Labels"].as_object().into_iter().flatten() {
        has(format!("label:{key}:{}", text(value)));
    }
    for variable in config["Env"].as_array().into_iter().flatten() {
        has(format!("env:{}", text(variable)));
    }
    if let Some(image) = config["Image"].as_str().filter(|image| !image.is_empty()) {
        has(format!("image_id:{image}"));
    }
}

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
