//! The `slurm` attestor: the job and step that a process runs in, from its cgroup (SPIRE, `slurm_posix.go`).
//!
//! `slurmstepd` makes the cgroup `/system.slice/[NODE_]slurmstepd.scope/JOB/step_STEP/…`, where `JOB` is `job_` and a
//! number, or a Slurm ID that begins with `s`. Only a path that begins with `/system.slice/` counts: that slice is root's,
//! so a user who may make cgroups cannot make one of this shape there.

use std::path::{Path, PathBuf};

use identity::Selector;

use crate::container::{self, ContainerError};

/// The `slurm` workload attestor.
#[derive(Debug)]
pub struct Slurm {
    proc: PathBuf,
}

/// Why a process could not be attested. The text and [`SlurmError::code`] are SPIRE's.
#[derive(Debug, thiserror::Error)]
pub enum SlurmError {
    /// The cgroups of the process cannot be read.
    #[error(transparent)]
    Cgroup(#[from] ContainerError),
    /// Two cgroups of the process are of different steps.
    #[error("multiple Slurm jobs found in cgroups ({0}, {1})")]
    TwoSteps(String, String),
}

impl SlurmError {
    /// SPIRE's gRPC code for this error. It appears only in the log.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Cgroup(_) => "Internal",
            Self::TwoSteps(..) => "FailedPrecondition",
        }
    }
}

impl Slurm {
    /// Makes an attestor. `proc` is where proc is mounted.
    #[must_use]
    pub fn new(proc: &Path) -> Self {
        Self { proc: proc.to_owned() }
    }

    /// Returns the selectors of a process; none if no step of Slurm runs it. It takes microseconds.
    ///
    /// # Errors
    /// [`SlurmError`].
    pub fn attest(&self, pid: i32) -> Result<Vec<Selector>, SlurmError> {
        selectors(&container::read_cgroup(&self.proc, pid)?)
    }
}

/// A step of a job, as its cgroup path spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step<'a> {
    job: &'a str,
    step: &'a str,
}

fn selectors(cgroup: &str) -> Result<Vec<Selector>, SlurmError> {
    let mut found: Option<Step<'_>> = None;
    for step in container::paths(cgroup)?.into_iter().filter_map(step) {
        let held = *found.get_or_insert(step);
        if held != step {
            let text = |of: Step<'_>| format!("{}/step_{}", of.job, of.step);
            return Err(SlurmError::TwoSteps(text(held), text(step)));
        }
    }
    let Some(Step { job, step }) = found else { return Ok(Vec::new()) };
    let job = job.strip_prefix("job_").map_or_else(|| format!("sluid:{job}"), |id| format!("job_id:{id}"));
    let values = [job, format!("step:{step}")];
    Ok(values.iter().filter_map(|value| Selector::new("slurm", value).ok()).collect())
}

fn step(path: &str) -> Option<Step<'_>> {
    let mut parts = path.strip_prefix("/system.slice/")?.split('/');
    let scope = parts.next()?;
    let job = parts.next()?;
    let step = parts.next()?.strip_prefix("step_")?;
    let is_job = match job.strip_prefix("job_") {
        Some(id) => !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()),
        None => {
            let id = job.strip_prefix('s').unwrap_or_default();
            !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
        }
    };
    (scope.ends_with("slurmstepd.scope") && is_job && !step.is_empty()).then_some(Step { job, step })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(cgroup: &str) -> String {
        match selectors(cgroup) {
            Ok(found) => found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(reason) => format!("{}: {reason}", reason.code()),
        }
    }

    #[test]
    fn steps_of_jobs() {
        for (path, expected) in [
            ("/system.slice/slurmstepd.scope/job_7/step_0/user/task_0", "slurm:job_id:7 slurm:step:0"),
            ("/system.slice/node1_slurmstepd.scope/job_7/step_batch", "slurm:job_id:7 slurm:step:batch"),
            (
                "/system.slice/slurmstepd.scope/s2BVX9/step_extern/slurm",
                "slurm:sluid:s2BVX9 slurm:step:extern",
            ),
            ("/user.slice/system.slice/slurmstepd.scope/job_7/step_0", ""),
            ("/../system.slice/slurmstepd.scope/job_7/step_0", ""),
            ("/system.slice/slurmstepd.scope/x/job_7/step_0", ""),
            ("/system.slice/slurmstepd.scope/job_7x/step_0", ""),
            ("/system.slice/slurmstepd.scope/job_/step_0", ""),
            ("/system.slice/slurmstepd.scope/s/step_0", ""),
            ("/system.slice/slurmstepd.scope/s-1/step_0", ""),
            ("/system.slice/slurmstepd.scope/job_7/step_", ""),
            ("/system.slice/slurmstepd.scope/job_7", ""),
            ("/system.slice/slurmstepd.scope", ""),
            ("/", ""),
        ] {
            assert_eq!(found(&format!("1:name=systemd:/\n0::{path}\n")), expected, "{path}");
        }
    }

    #[test]
    fn two_steps_are_refused() {
        let scope = "/system.slice/slurmstepd.scope";
        let same = format!("2:cpu:{scope}/job_7/step_0/user\n1:memory:{scope}/job_7/step_0/slurm\n0::/\n");
        assert_eq!(found(&same), "slurm:job_id:7 slurm:step:0");
        let other = format!("2:cpu:{scope}/job_7/step_0\n1:memory:{scope}/job_7/step_1\n");
        let expected =
            "FailedPrecondition: multiple Slurm jobs found in cgroups (job_7/step_0, job_7/step_1)";
        assert_eq!(found(&other), expected);
        assert!(found("0:no path\n").starts_with("Internal: unable to obtain cgroups: invalid cgroup entry"));
    }

    #[test]
    fn a_process_that_is_gone_has_no_selectors() {
        let proc = tempfile::tempdir().unwrap();
        assert!(Slurm::new(proc.path()).attest(7).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "(\\PC|\n|:|/|/system.slice/|slurmstepd.scope/|job_1|/step_)*") {
            let _ = selectors(&text);
        }
    }
}
