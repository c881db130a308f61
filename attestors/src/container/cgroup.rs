//! `/proc/PID/cgroup`: a line `id:controllers:path` for each hierarchy.

use super::path::Findings;
use super::{Container, ContainerError, excerpt};

/// The container that the text of `/proc/PID/cgroup` names.
///
/// # Errors
/// [`ContainerError`].
pub fn from_cgroup(text: &str) -> Result<Option<Container>, ContainerError> {
    let mut found = Findings::default();
    for path in paths(text)? {
        found.add(path)?;
    }
    Ok(found.container())
}

/// The paths of all lines. One malformed line makes the whole text unusable.
pub(super) fn paths(text: &str) -> Result<Vec<&str>, ContainerError> {
    text.lines().map(path).collect()
}

/// Behind the second colon; more of them belong to the path.
fn path(line: &str) -> Result<&str, ContainerError> {
    let mut fields = line.splitn(3, ':');
    fields
        .nth(2)
        .ok_or_else(|| ContainerError::Cgroup { fields: line.split(':').count(), line: excerpt(line) })
}
