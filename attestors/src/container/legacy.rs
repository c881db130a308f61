//! The locator for `use_new_container_locator = false`: the two regular expressions of spire-agent's former locator
//! (SPIRE, `k8s_posix.go`), written out by hand. *Punct* below is ASCII punctuation.

use super::cgroup::paths;
use super::path::{CONTAINER_ID, is_container_id};
use super::{Container, ContainerError};

/// Returns the container that the text of `/proc/PID/cgroup` names, as spire-agent's former locator reads it.
///
/// # Errors
/// [`ContainerError`], if a line is malformed or lines name different containers.
pub fn from_cgroup_legacy(text: &str) -> Result<Option<Container>, ContainerError> {
    let mut found: Option<Container> = None;
    for new in paths(text)?.into_iter().filter_map(container) {
        match found.get_or_insert_with(|| new.clone()) {
            held if held.id != new.id => return Err(ContainerError::ContainerIds(held.id.clone(), new.id)),
            held if held.pod_uid != new.pod_uid => {
                let uid = |of: &Container| of.pod_uid.clone().unwrap_or_default();
                return Err(ContainerError::PodUids(uid(held), uid(&new)));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The container that a path names. A path that both patterns match is ambiguous, and names none.
fn container(path: &str) -> Option<Container> {
    let path = path.strip_suffix(".scope").unwrap_or(path);
    let at = path.len().checked_sub(CONTAINER_ID)?;
    let (before, id) = path.split_at_checked(at)?;
    if !is_container_id(id) {
        return None;
    }
    let pod_uid = match (pod_uid(before), is_crio(before)) {
        (Some(uid), false) => Some(uid),
        (None, true) => None,
        _ => return None,
    };
    Some(Container { id: id.to_owned(), pod_uid })
}

/// The first pattern: a punct, `pod`, a UID, then up to the end segments that single puncts separate. Returns the
/// UID.
fn pod_uid(before: &str) -> Option<String> {
    let puncts_are_single_from =
        before.as_bytes().windows(2).rposition(|pair| pair.iter().all(u8::is_ascii_punctuation));
    before.match_indices("pod").find_map(|(at, _)| {
        let opens = at > 0 && before.as_bytes()[at - 1].is_ascii_punctuation();
        let end = at + pod(&before[at..])?;
        let single = puncts_are_single_from.is_none_or(|last| last < end - 1);
        let closes = before.as_bytes().last().is_some_and(u8::is_ascii_punctuation);
        (opens && single && closes).then(|| canonical(&before[at + "pod".len()..end - 1]))
    })
}

/// The second pattern: `crio` and a punct come before the container ID, and no pod's name touches the words and
/// slashes before them.
fn is_crio(before: &str) -> bool {
    let Some(path) =
        before.strip_suffix(|c: char| c.is_ascii_punctuation()).and_then(|b| b.strip_suffix("crio"))
    else {
        return false;
    };
    let start = path.rfind(|c: char| c.is_ascii_punctuation() && c != '/').map_or(0, |at| at + 1);
    !path
        .match_indices("pod")
        .take_while(|(at, _)| *at <= start)
        .any(|(at, _)| pod(&path[at..]).is_some_and(|length| at + length >= start))
}

/// The length of `pod`, a UID and a punct at the start of `text`. A punct may come between two of the UID's five
/// groups.
fn pod(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = "pod".len();
    for (group, digits) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if group > 0 && bytes.get(at).is_some_and(u8::is_ascii_punctuation) {
            at += 1;
        }
        bytes.get(at..at + digits).filter(|group| group.iter().all(u8::is_ascii_hexdigit))?;
        at += digits;
    }
    bytes.get(at).is_some_and(u8::is_ascii_punctuation).then_some(at + 1)
}

/// Replaces punctuation by dashes, except what Unicode calls symbols.
fn canonical(uid: &str) -> String {
    let is_symbol = |c| "$+<=>^`|~".contains(c);
    uid.chars().map(|c| if c.is_ascii_punctuation() && !is_symbol(c) { '-' } else { c }).collect()
}
