//! `/proc/PID/mountinfo`: of each cgroup mount the directory of the hierarchy that it shows.

use super::path::Findings;
use super::{Container, ContainerError, excerpt};

/// What proc(5) says of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MountRule {
    /// A `-` ends the optional fields.
    #[error("missing separator")]
    Separator,
    /// Six fields come before them.
    #[error("expected at least 6 fields before separator")]
    Fields,
    /// The type of the filesystem comes after the separator.
    #[error("missing filesystem type")]
    Type,
}

/// The container that the text of `/proc/PID/mountinfo` names. Its process could have made it say so: it counts only
/// where the kernel's own text names none.
///
/// # Errors
/// [`ContainerError`].
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

/// Type and root. Fields are parted by one space each: a mount's source may be empty, which shows as two spaces.
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
