//! Parses `/proc/PID/cgroup`, which has a line `id:controllers:path` for each hierarchy.

use super::path::Findings;
use super::{Container, ContainerError, Locator, excerpt};

/// Returns the container that the text of `/proc/PID/cgroup` names, if it names one.
///
/// # Errors
/// [`ContainerError`], if a line is malformed or lines name different containers.
pub fn from_cgroup(text: &str) -> Result<Option<Container>, ContainerError> {
    let mut found = Findings::default();
    for path in paths(text)? {
        found.add(path)?;
    }
    Ok(found.container())
}

/// Returns the ID of the container that the text of `/proc/PID/cgroup` names, if it names one, by [`Locator::Ids`].
///
/// # Errors
/// [`ContainerError`], if a line is malformed or lines name different containers.
pub fn container_id(text: &str) -> Result<Option<String>, ContainerError> {
    let mut found = Findings::new(Locator::Ids);
    for path in paths(text)? {
        found.add(path)?;
    }
    Ok(found.container().map(|container| container.id))
}

/// The paths of all lines. One malformed line makes the whole text unusable.
///
/// # Errors
/// [`ContainerError::Cgroup`].
pub fn paths(text: &str) -> Result<Vec<&str>, ContainerError> {
    text.lines().map(path).collect()
}

/// The path of a line: everything after the second colon.
fn path(line: &str) -> Result<&str, ContainerError> {
    let mut fields = line.splitn(3, ':');
    fields
        .nth(2)
        .ok_or_else(|| ContainerError::Cgroup { fields: line.split(':').count(), line: excerpt(line) })
}
