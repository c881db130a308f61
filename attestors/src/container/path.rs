//! Parses one path of a cgroup hierarchy, and combines the outcome for several paths.

use super::{Container, ContainerError, Locator};

/// The container that the paths read so far name. A path with a pod UID overrules those without: in a node that is
/// itself a container (kind), some hierarchies name only the node's container.
#[derive(Default)]
pub(super) struct Findings {
    found: Option<Container>,
    /// Pods are not looked for, so all paths count alike.
    ids_only: bool,
}

impl Findings {
    pub(super) fn new(locator: Locator) -> Self {
        Self { found: None, ids_only: locator == Locator::Ids }
    }

    /// Takes one more path. A path that names no container changes nothing. SPIRE takes it for a conflict if it comes
    /// after one that does, so that Docker with a `0::/` line is refused or not depending on the order of lines.
    pub(super) fn add(&mut self, path: &str) -> Result<(), ContainerError> {
        let Some(mut new) = container(path) else { return Ok(()) };
        if self.ids_only {
            new.pod_uid = None;
        }
        let Some(held) = &self.found else {
            self.found = Some(new);
            return Ok(());
        };
        match (&held.pod_uid, &new.pod_uid) {
            (Some(_), None) => {}
            (None, Some(_)) => self.found = Some(new),
            (Some(one), Some(other)) if one != other => {
                return Err(ContainerError::PodUids(one.clone(), other.clone()));
            }
            _ if held.id != new.id => return Err(ContainerError::ContainerIds(held.id.clone(), new.id)),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn container(self) -> Option<Container> {
        self.found
    }
}

/// The container that a path names. The path is read from its end, because a node may itself be a container and a
/// container may have cgroups below its own: the first segment with a container ID counts, and from there on the
/// first with a pod UID.
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

/// Where in `segment` a word of 64 hexadecimal digits begins.
fn container_id(segment: &str) -> Option<usize> {
    let mut words = words(segment);
    words.find(|(_, word)| is_container_id(word)).map(|(at, _)| at)
}

/// The UUID of a word that begins with `pod` and a UUID. The systemd cgroup driver writes its dashes as underscores.
fn pod_uid(segment: &str) -> Option<String> {
    words(segment).find_map(|(at, _)| {
        let text = segment[at..].strip_prefix("pod")?;
        let uid = text.get(..POD_UID)?;
        let whole = !text[POD_UID..].starts_with(|c| !is_boundary(c));
        (whole && is_uuid(uid)).then(|| uid.replace('_', "-"))
    })
}

/// The words of a text and where they begin. An underscore belongs to a word, as for `\b` in regular expressions.
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

pub(crate) fn is_container_id(text: &str) -> bool {
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
