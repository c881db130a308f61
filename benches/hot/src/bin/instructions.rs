//! Counts the instructions of one operation of each hot path, and compares them with the recorded figures.
//!
//! `CARGO_PROFILE_BENCH_LTO=off cargo run --profile bench -p finial-hot --bin instructions [-- --bless]`. Each scenario
//! runs under callgrind with few operations and with more. The difference is the cost of the operations alone. It exits
//! with 1 if a figure is above 110 % of `benches/hot/instructions.txt`, and with 77 without valgrind.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use hot::scenarios::{ALL, Scenario};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [RUN, name, count] => run(name, count.parse()?).map(|()| ExitCode::SUCCESS),
        [] => compare(),
        ["--bless"] => bless(),
        _ => Err("usage: instructions [--bless]".into()),
    }
}

/// The code that runs under callgrind: `count` operations of one scenario.
fn run(name: &str, count: u32) -> Outcome<()> {
    let scenario = ALL.iter().find(|scenario| scenario.name == name).ok_or("no such scenario")?;
    let mut operation = (scenario.prepare)();
    (0..count).for_each(|_| operation());
    Ok(())
}

fn compare() -> Outcome<ExitCode> {
    if let Err(reason) = Command::new("valgrind").arg("--version").stdout(Stdio::null()).status() {
        println!("skipped: valgrind does not run: {reason}");
        return Ok(ExitCode::from(SKIPPED));
    }
    let known = known()?;
    let mut exceeded = false;
    println!("{:28} {:>12} {:>12}", "one operation", "instructions", "on file");
    for scenario in ALL {
        let counted = count(scenario)?;
        let before = known.get(scenario.name).copied();
        let more = before.is_none_or(|before| counted * 100 > before * ALARM);
        exceeded |= more;
        let before = before.map_or_else(|| "none".to_owned(), |before| before.to_string());
        let mark = if more { " MORE THAN 110 %: make it less, or say why and run with --bless" } else { "" };
        println!("{:28} {counted:>12} {before:>12}{mark}", scenario.name);
    }
    Ok(if exceeded { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn bless() -> Outcome<ExitCode> {
    let mut text =
        String::from("# Instructions of one operation, x86-64. Made by `instructions -- --bless`.\n");
    for scenario in ALL {
        writeln!(text, "{} {}", scenario.name, count(scenario)?)?;
    }
    std::fs::write(file(), text)?;
    Ok(ExitCode::SUCCESS)
}

fn known() -> Outcome<BTreeMap<String, u64>> {
    let text = std::fs::read_to_string(file())?;
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let read = |line: &str| {
        let (name, count) = line.split_once(' ').ok_or("a line without a figure")?;
        Outcome::Ok((name.to_owned(), count.parse()?))
    };
    lines.map(read).collect()
}

fn count(scenario: &Scenario) -> Outcome<u64> {
    let (few, many) = (callgrind(scenario, FEW)?, callgrind(scenario, MANY)?);
    Ok(many.saturating_sub(few) / u64::from(MANY - FEW))
}

fn callgrind(scenario: &Scenario, count: u32) -> Outcome<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args([RUN, scenario.name, &count.to_string()])
        // Hash maps differ in every process. This many operations even that out.
        .output()?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{}: {}\n{log}", scenario.name, output.status).into());
    }
    let total = log.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    total.ok_or_else(|| format!("no count in: {log}").into())
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.txt")
}

const RUN: &str = "--run";
const FEW: u32 = 10;
const MANY: u32 = 110;
/// The percentage of the recorded figure above which the program fails.
const ALARM: u64 = 110;
/// The exit code without valgrind.
const SKIPPED: u8 = 77;
