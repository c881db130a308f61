//! Checks patterns that find a container ID in a cgroup path (SPIRE, `docker/cgroup/dockerfinder.go`). A pattern is a path
//! whose components are texts, `*` for any component, and `<id>` for the container ID.

use std::collections::BTreeSet;

/// Checks that each pattern has exactly one `<id>`, and that no two match the same path: the ID must not depend on their
/// order.
pub(super) fn check(patterns: &[String]) -> Result<(), String> {
    let mut ambiguous = BTreeSet::new();
    for (at, one) in patterns.iter().enumerate() {
        for other in &patterns[at + 1..] {
            if overlap(one, other) {
                ambiguous.extend([one, other]);
            }
        }
    }
    if !ambiguous.is_empty() {
        let quoted: Vec<_> = ambiguous.iter().map(|pattern| format!("{pattern:?}")).collect();
        return Err(format!("dockerfinder: patterns must not be ambiguous: [{}]", quoted.join(" ")));
    }
    for pattern in patterns {
        if pattern.split('/').filter(|component| *component == ID).count() != 1 {
            return Err(format!(
                "pattern {pattern:?} must contain the container id token {ID:?} exactly once"
            ));
        }
    }
    Ok(())
}

/// Whether some path matches both patterns. Wildcards match one component, never a slash.
fn overlap(one: &str, other: &str) -> bool {
    let (one, other) = (one.split('/'), other.split('/'));
    let same = |(a, b): (&str, &str)| a == b || [a, b].iter().any(|part| *part == "*" || *part == ID);
    one.clone().count() == other.clone().count() && one.zip(other).all(same)
}

const ID: &str = "<id>";
