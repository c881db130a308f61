//! The steps of `cargo verify`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use verify::tools::{self, CARGO_DENY, CARGO_FUZZ};

use crate::soak;
use crate::suite::{self, Count};

/// A step: its name, a description and its code.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) run: fn() -> Outcome,
}

/// All steps in CI's order: those that fail quickly come first.
pub(crate) const STEPS: &[Step] = &[
    Step { name: "fmt", what: "cargo fmt", run: fmt },
    Step { name: "clippy", what: "cargo clippy, warnings are errors", run: clippy },
    Step { name: "tests", what: "unit, integration, live and documentation tests", run: run_tests },
    Step { name: "doc", what: "cargo doc, warnings are errors", run: doc },
    Step { name: "deny", what: "licences, bans and sources of dependencies", run: deny },
    Step { name: "advisories", what: "known vulnerabilities of dependencies", run: advisories },
    Step { name: "fuzz", what: "each fuzz target for ten seconds", run: fuzz },
    Step { name: "benches", what: "each benchmark once, unmeasured", run: benches },
    Step {
        name: "instructions",
        what: "instructions and allocations of the hot paths, against the figures on file",
        run: instructions,
    },
    Step { name: "soak", what: "two Envoys while their agent is restarted, two minutes", run: soak::short },
];

/// The step that runs only with `--cluster`. It needs root, the SPIRE programs and minutes; the first run takes half an
/// hour.
pub(crate) const CLUSTER: Step =
    Step { name: "cluster", what: "the scenario on a real Kubernetes node (tests/cluster)", run: cluster };

/// The step that runs only with `--soak`.
pub(crate) const LONG_SOAK: Step =
    Step { name: "long-soak", what: "the same for two hours, or --minutes", run: soak::long };
/// The minutes of a soak, if they are given.
pub(crate) static MINUTES: OnceLock<u64> = OnceLock::new();

/// The outcome of a step.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    /// The text in the table.
    pub(crate) note: String,
    /// Lines below it in the table.
    pub(crate) details: Vec<String>,
    pub(crate) tests: Option<Count>,
}

impl Outcome {
    pub(crate) fn new(verdict: Verdict, note: impl Into<String>) -> Self {
        Self { verdict, note: note.into(), details: Vec::new(), tests: None }
    }

    pub(crate) fn skipped(reason: impl ToString) -> Self {
        Self::new(Verdict::Skipped, reason.to_string())
    }

    pub(crate) fn failed(reason: impl ToString) -> Self {
        Self::new(Verdict::Failed, reason.to_string())
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Verdict {
    Passed,
    Skipped,
    Failed,
}

impl Verdict {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Skipped => "SKIPPED",
            Self::Failed => "FAILED",
        }
    }
}

fn fmt() -> Outcome {
    outcome(cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Outcome {
    outcome(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

/// The live tests find their programs by environment variables. Without them they skip themselves and print the reason.
fn run_tests() -> Outcome {
    let mut cargo = cargo();
    let (programs, mut details) = programs();
    cargo.envs(programs);
    match suite::run(&mut cargo) {
        Ok((passed, count, skipped)) => {
            details.extend(skipped.into_iter().map(|test| format!("skipped {test}")));
            let verdict = if passed { Verdict::Passed } else { Verdict::Failed };
            Outcome { details, tests: Some(count), ..Outcome::new(verdict, count.to_string()) }
        }
        Err(reason) => Outcome::failed(reason),
    }
}

/// Fetches the programs of others, all at once. Returns the variables that name them, and why some are missing.
fn programs() -> (Vec<(String, PathBuf)>, Vec<String>) {
    let (python, envoy, go) = thread::scope(|scope| {
        let python = scope.spawn(tools::python);
        let go = scope.spawn(tools::go_programs);
        let envoy = tools::envoy();
        (python.join().expect("no panic"), envoy, go.join().expect("no panic"))
    });
    let variable = |name: &str| name.to_uppercase().replace('-', "_");
    let of_go = tools::PROGRAMS.map(|name| match &go {
        Ok(folder) => Ok((variable(name), folder.join(name))),
        Err(reason) => Err(format!("no {}: {reason}", variable(name))),
    });
    let named = |name: &str, program: Result<PathBuf, tools::Error>| match program {
        Ok(path) => Ok((name.to_owned(), path)),
        Err(reason) => Err(format!("no {name}: {reason}")),
    };
    let all = [named("FINIAL_PYTHON", python), named("ENVOY", envoy)].into_iter().chain(of_go);
    let (found, absent): (Vec<_>, Vec<_>) = all.partition(Result::is_ok);
    (found.into_iter().flatten().collect(), absent.into_iter().filter_map(Result::err).collect())
}

fn doc() -> Outcome {
    outcome(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn deny() -> Outcome {
    match CARGO_DENY.program() {
        Ok(deny) => outcome(Command::new(deny).args([
            "check",
            "--hide-inclusion-graph",
            "licenses",
            "bans",
            "sources",
        ])),
        Err(reason) => Outcome::failed(reason),
    }
}

fn advisories() -> Outcome {
    let deny = match CARGO_DENY.program() {
        Ok(deny) => deny,
        Err(reason) => return Outcome::failed(reason),
    };
    if let Verdict::Failed = outcome(Command::new(&deny).args(["fetch", "db"])).verdict {
        return Outcome::skipped("the advisory database cannot be fetched");
    }
    outcome(Command::new(deny).args(["check", "--disable-fetch", "advisories"]))
}

fn cluster() -> Outcome {
    let mut test = Command::new("tests/cluster/run");
    if let Ok(envoy) = tools::envoy() {
        test.env("ENVOY", envoy);
    }
    match test.status() {
        // 77 is the exit status of a test program that could not run. It has printed the reason.
        Ok(status) if status.code() == Some(77) => Outcome::skipped("see above"),
        Ok(status) if status.success() => Outcome::new(Verdict::Passed, ""),
        Ok(status) => Outcome::failed(status),
        Err(reason) => Outcome::failed(reason),
    }
}

fn fuzz() -> Outcome {
    let program = match CARGO_FUZZ.program() {
        Ok(program) => program,
        Err(reason) => return Outcome::failed(reason),
    };
    let targets = match fuzz_targets() {
        Ok(targets) => targets,
        Err(reason) => return Outcome::failed(format!("fuzz/fuzz_targets: {reason}")),
    };
    let fuzz = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments);
        // Uses the pinned compiler with its nightly flags (sanitizer, coverage), so that no second toolchain is needed.
        command.env("RUSTC_BOOTSTRAP", "1");
        // The release profile is made for the agent: it is slow to build and strips symbols.
        command.envs([
            ("CARGO_PROFILE_RELEASE_LTO", "off"),
            ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
            ("CARGO_PROFILE_RELEASE_STRIP", "none"),
        ]);
        outcome(&mut command)
    };
    if let built @ Outcome { verdict: Verdict::Failed, .. } = fuzz(&["build"]) {
        return built;
    }
    let crashed: Vec<_> = targets
        .iter()
        .filter(|target| {
            println!("--- {target}");
            // libFuzzer writes new inputs into the first folder, so the first one is not that of the seeds.
            let found = format!("fuzz/found/{target}");
            if let Err(reason) = fs::create_dir_all(&found) {
                eprintln!("{found}: {reason}");
                return true;
            }
            let mut arguments = vec!["run".to_owned(), (*target).clone(), found];
            let seeds = format!("fuzz/corpus/{target}");
            arguments.extend(Path::new(&seeds).is_dir().then_some(seeds));
            // The seed is fixed, so that a run's findings depend on the change under test and not on luck. Long runs
            // look for new findings (fuzz/README.md).
            let options = ["--", "-seed=1", "-max_total_time=10", "-verbosity=0", "-timeout=60"];
            arguments.extend(options.map(str::to_owned));
            let words = format!("fuzz/dictionaries/{target}.dict");
            arguments.extend(Path::new(&words).is_file().then(|| format!("-dict={words}")));
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            matches!(fuzz(&arguments).verdict, Verdict::Failed)
        })
        .map(String::as_str)
        .collect();
    if crashed.is_empty() {
        return Outcome::new(Verdict::Passed, format!("{} targets", targets.len()));
    }
    Outcome::failed(format!("{}: see fuzz/artifacts", crashed.join(", ")))
}

fn fuzz_targets() -> std::io::Result<Vec<String>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(Path::new("fuzz/fuzz_targets"))? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("rs")) {
            targets.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    targets.sort_unstable();
    Ok(targets)
}

/// Runs each benchmark once, to check that it works. Uses the test profile, which is built already.
fn benches() -> Outcome {
    outcome(cargo().args(["test", "-p", "finial-benches", "-p", "finial-hot", "--benches", "--", "--test"]))
}

/// Counts instructions and allocations. Exit status 77 means that a program could not run; it has printed the reason.
fn instructions() -> Outcome {
    let run = |program: &str| {
        let mut cargo = cargo();
        cargo.args(["run", "--quiet", "--profile", "bench", "--package", "finial-hot", "--bin", program]);
        // The recorded figures were made without LTO too: it is quicker to build, and as good for comparisons.
        cargo.env("CARGO_PROFILE_BENCH_LTO", "off").status()
    };
    let heap = run("heap");
    match (run("instructions"), heap) {
        (Err(reason), _) | (_, Err(reason)) => Outcome::failed(reason),
        (Ok(counts), Ok(heap)) if counts.success() && heap.success() => Outcome::new(Verdict::Passed, ""),
        (Ok(counts), Ok(heap)) if counts.code() == Some(77) && heap.success() => {
            Outcome::skipped("instructions: no valgrind; allocations are as promised")
        }
        (Ok(counts), Ok(heap)) => Outcome::failed(format!("instructions: {counts}; heap: {heap}")),
    }
}

pub(crate) fn cargo() -> Command {
    Command::new("cargo")
}

pub(crate) fn outcome(command: &mut Command) -> Outcome {
    match command.status() {
        Ok(status) if status.success() => Outcome::new(Verdict::Passed, ""),
        Ok(status) => Outcome::failed(status),
        Err(reason) => Outcome::failed(format!("{}: {reason}", command.get_program().display())),
    }
}
