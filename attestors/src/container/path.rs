//! One path of a cgroup hierarchy, and what several of them say together.

use super::{Container, ContainerError};

/// What the paths read so far say. A path with a pod UID overrules those without: in a node that itself is a container
/// (kind) some hierarchies name only the node's.
#[derive(Default)]
pub(super) struct Findings(Option<Container>);

impl Findings {
    /// A path that names no container decides nothing. SPIRE takes it for a conflict when it comes after one that does,
    /// so Docker with a `0::/` line is refused or not by the order of lines; here it never is.
    pub(super) fn add(&mut self, path: &str) -> Result<(), ContainerError> {
        let Some(new) = container(path) else { return Ok(()) };
        let Some(held) = &self.0 else {
            self.0 = Some(new);
            return Ok(());
        };
        match (&held.pod_uid, &new.pod_uid) {
            (Some(_), None) => {}
            (None, Some(_)) => self.0 = Some(new),
            (Some(one), Some(other)) if one != other => {
                return Err(ContainerError::PodUids(one.clone(), other.clone()));
            }
            _ if held.id != new.id => return Err(ContainerError::ContainerIds(held.id.clone(), new.id)),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn container(self) -> Option<Container> {
        self.0
    }
}

/// From the end, because a node may itself be a container, and because a container may have cgroups below its own: the
/// first segment with a container ID, then from there on the first with a pod UID.
fn container(path: &str) -> Option<Container> {
    let mut end = path.len();
    let at = path.rsplit('/').find_map(|segment| {
        let start = end - segment.len();
        end = start.saturating_sub(1);
        Some(start + container_id(segment)?)
    })?;
    let (before, id) = path[..at + CONTAINER_ID].split_at(at);
    Some(Container { id: id.to_owned(), pod_uid: before.rsplit('/').find_map(pod_uid) })
}

/// Where a word of 64 hexadecimal digits begins.
fn container_id(segment: &str) -> Option<usize> {
    let mut words = words(segment);
    words.find(|(_, word)| is_container_id(word)).map(|(at, _)| at)
}

/// A word that begins with `pod` and a UUID. The systemd driver writes the UUID's dashes as underscores.
fn pod_uid(segment: &str) -> Option<String> {
    words(segment).find_map(|(at, _)| {
        let text = segment[at..].strip_prefix("pod")?;
        let uid = text.get(..POD_UID)?;
        let whole = !text[POD_UID..].starts_with(|c| !is_boundary(c));
        (whole && is_uuid(uid)).then(|| uid.replace('_', "-"))
    })
}

/// The words of a text and where they begin. An underscore belongs to a word, as with a regular expression's `\b`.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_inclusive(is_boundary).scan(0, |end, piece| {
        let start = *end;
        *end += piece.len();
        Some((start, piece.trim_end_matches(is_boundary)))
    })
}

fn is_boundary(c: char) -> bool {
    !c.is_ascii_alphanumeric() && c != '_'
}

pub(super) fn is_container_id(text: &str) -> bool {
    text.len() == CONTAINER_ID && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_uuid(text: &str) -> bool {
    text.bytes().enumerate().all(|(at, b)| match at {
        8 | 13 | 18 | 23 => b == b'-' || b == b'_',
        _ => b.is_ascii_hexdigit(),
    })
}

pub(super) const CONTAINER_ID: usize = 64;
const POD_UID: usize = 36;
