//! Starts the process anew with heap profiles switched on.
//!
//! jemalloc decides at its first allocation, before `main`, whether it will ever sample, and then reads only the
//! environment. So a process whose configuration asks for profiles replaces itself once by the same program with the same
//! arguments and this variable. It has read its configuration by then, and done nothing else: no socket is bound, no
//! thread of ours runs, and the pid stays. All other agents pay nothing for what they do not use.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use config::Settings;

use super::heap;
use crate::{golang, logging};

/// Replaces this process if the settings ask for heap profiles and it cannot make them. It returns if nothing is to be
/// done, or if that fails, which is a warning: the agent then serves without heap profiles.
pub(crate) fn with_heap_profiles(settings: &Settings, config: &Path) {
    let wanted = settings.profiling.as_ref().is_some_and(config::Profiling::wants_heap);
    if !wanted || heap::is_on() {
        return;
    }
    let reason = match variable(&env::var_os(VARIABLE).unwrap_or_default()) {
        // The second process ends up here at the latest, so there is no third one.
        None => format!("jemalloc does not sample, although {VARIABLE} speaks of it"),
        Some(_) if !config.is_file() => {
            "the agent would have to read its configuration again, which is not a regular file".to_owned()
        }
        Some(value) => replace(&value),
    };
    logging::line("warning", "Memory profiles are disabled", &[("reason", reason)]);
}

/// The variable for the next process. `None` if it switches profiles on or off already.
fn variable(given: &OsStr) -> Option<OsString> {
    let switches = given.as_bytes().split(|byte| *byte == b',').any(|one| one.starts_with(b"prof:"));
    if switches {
        return None;
    }
    let mut value = given.to_owned();
    if !value.is_empty() {
        value.push(",");
    }
    value.push(SAMPLING);
    Some(value)
}

/// Returns only with the reason why this process cannot be replaced.
fn replace(value: &OsStr) -> String {
    let program = match env::current_exe() {
        Ok(program) => program,
        Err(reason) => return format!("the agent cannot find its program: {}", golang::os_error(&reason)),
    };
    let mut arguments = env::args_os();
    let mut command = Command::new(&program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let reason = command.args(arguments).env(VARIABLE, value).exec();
    format!("the agent cannot run {} again: {}", program.display(), golang::os_error(&reason))
}

/// Where jemalloc, built into this program, looks for settings.
const VARIABLE: &str = "_RJEM_MALLOC_CONF";
/// One sample for 64 KiB of allocations. jemalloc's own 512 KiB would see next to nothing of a heap of one or two MiB;
/// each sample takes 16 KiB of memory.
const SAMPLING: &str = "prof:true,lg_prof_sample:16";

#[cfg(test)]
mod tests {
    use super::*;

    fn of(given: &str) -> Option<String> {
        variable(OsStr::new(given)).map(|value| value.into_string().unwrap())
    }

    #[test]
    fn settings_of_the_operator_stay_and_nothing_is_said_twice() {
        assert_eq!(of("").as_deref(), Some("prof:true,lg_prof_sample:16"));
        assert_eq!(of("narenas:2").as_deref(), Some("narenas:2,prof:true,lg_prof_sample:16"));
        assert_eq!(
            of("narenas:2,prof_leak:false").as_deref().map(|value| value.matches("prof:").count()),
            Some(1)
        );
        assert_eq!(of("prof:false"), None);
        assert_eq!(of(SAMPLING), None);
        assert_eq!(of(&of("narenas:2").unwrap()), None);
    }
}
