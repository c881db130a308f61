//! Reads the keys `profiling_*`. As in spire-agent, no value of them keeps the agent from starting: what does nothing is a
//! warning.

use std::time::Duration;

use crate::decode::{Section, Setting};
use crate::{Dumps, ProfileKind, Profiling};

/// `None` if profiling is off, or nothing is to be done.
pub(super) fn read(section: &Section<'_>) -> Option<Profiling> {
    let enabled = section.flag("profiling_enabled").filter(|flag| flag.value);
    let port = section.int("profiling_port").filter(|port| port.value != 0);
    let every = section.int("profiling_freq").filter(|seconds| seconds.value != 0);
    let names = section.texts("profiling_names");
    let Some(enabled) = enabled else {
        let names = names.first().map(|name| name.line);
        switched_off(section, [port.map(|port| port.line), every.map(|every| every.line), names]);
        return None;
    };
    let dumps = every.and_then(|every| interval(section, &every));
    if dumps.is_none()
        && let Some(name) = names.first()
    {
        section.report().ignored(name.line, "profiling_names does nothing without profiling_freq");
    }
    let dumps = dumps.map(|every| Dumps { every, kinds: kinds(section, &names) });
    let profiling = Profiling { port: port.and_then(|port| usable(section, &port)), dumps };
    if profiling == Profiling::default() {
        let idle = "profiling_enabled does nothing without profiling_port or profiling_freq";
        section.report().ignored(enabled.line, idle);
        return None;
    }
    Some(profiling)
}

/// Warns once of the other keys: profiling itself is off.
fn switched_off(section: &Section<'_>, lines: [Option<Option<u32>>; 3]) {
    let keys = ["profiling_port", "profiling_freq", "profiling_names"].into_iter().zip(lines);
    let given: Vec<_> = keys.filter_map(|(key, line)| Some((key, line?))).collect();
    let Some((_, line)) = given.first() else { return };
    let names = given.iter().map(|(key, _)| *key).collect::<Vec<_>>().join(", ");
    section.report().ignored(*line, format!("Nothing is done for {names}: profiling_enabled is not true"));
}

fn usable(section: &Section<'_>, port: &Setting<i64>) -> Option<u16> {
    let usable = u16::try_from(port.value).ok();
    if usable.is_none() {
        let message = format!("profiling_port does nothing: it must be from 1 to 65535, not {}", port.value);
        section.report().ignored(port.line, message);
    }
    usable
}

fn interval(section: &Section<'_>, every: &Setting<i64>) -> Option<Duration> {
    let seconds = u64::try_from(every.value).ok().filter(|seconds| *seconds <= LONGEST);
    if seconds.is_none() {
        let message = format!(
            "profiling_freq does nothing: it must be from 1 to {LONGEST} seconds, not {}",
            every.value
        );
        section.report().ignored(every.line, message);
    }
    seconds.map(Duration::from_secs)
}

/// The profiles that can be made. The others are named in one warning.
fn kinds(section: &Section<'_>, names: &[Setting<String>]) -> Vec<ProfileKind> {
    let (mut kinds, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match KINDS.into_iter().find(|kind| kind.name() == name.value) {
            Some(kind) if kinds.contains(&kind) => {}
            Some(kind) => kinds.push(kind),
            None => missing.push(format!("{:?}", name.value)),
        }
    }
    if let (Some(first), false) = (names.first(), missing.is_empty()) {
        let message = format!(
            "profiling_names: finial has \"cpu\" and \"heap\" only, so nothing is written for {}",
            missing.join(", ")
        );
        section.report().ignored(first.line, message);
    }
    kinds
}

const KINDS: [ProfileKind; 2] = [ProfileKind::Cpu, ProfileKind::Heap];
/// The most seconds between two dumps: a year.
const LONGEST: u64 = 365 * 24 * 60 * 60;
