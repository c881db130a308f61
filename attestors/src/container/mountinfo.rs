//! Parses `/proc/PID/mountinfo`: for each cgroup mount, the directory of the hierarchy that is mounted.

use super::path::Findings;
use super::{Container, ContainerError, excerpt};

/// A rule of proc(5) for a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MountRule {
    /// A `-` must end the optional fields.
    #[error("missing separator")]
    Separator,
    /// At least six fields must come before the separator.
    #[error("expected at least 6 fields before separator")]
    Fields,
    /// The filesystem type must come after the separator.
    #[error("missing filesystem type")]
    Type,
}

/// Returns the container that the text of `/proc/PID/mountinfo` names. The process itself could have made it say so,
/// so it counts only if the cgroup file names none.
///
/// # Errors
/// [`ContainerError`], if a line is malformed or lines name different containers.
pub fn from_mountinfo(text: &str) -> Result<Option<Container>, ContainerError> {
    let mut found = Findings::default();
    for line in text.lines() {
        add(&mut found, line)?;
    }
    Ok(found.container())
}

pub(super) fn add(found: &mut Findings, line: &str) -> Result<(), ContainerError> {
    if line.is_empty() {
        return Ok(());
    }
    let mount = parse(line).map_err(|rule| ContainerError::Mountinfo { rule, line: excerpt(line) })?;
    match mount {
        ("cgroup" | "cgroup2", root) => found.add(root),
        _ => Ok(()),
    }
}

/// The filesystem type and the root of a mount. Fields are separated by single spaces: an empty source of a mount
/// shows as two spaces.
fn parse(line: &str) -> Result<(&str, &str), MountRule> {
    let mut fields = line.split(' ');
    let separator = line.split(' ').position(|field| field == "-").ok_or(MountRule::Separator)?;
    if separator < 6 {
        return Err(MountRule::Fields);
    }
    let root = fields.nth(3).ok_or(MountRule::Fields)?;
    let kind = fields.nth(separator - 3).filter(|kind| !kind.is_empty()).ok_or(MountRule::Type)?;
    Ok((kind, root))
}
