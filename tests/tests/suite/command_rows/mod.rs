//! Command lines without an agent: each row of `ROWS` through finial, and through the real agent. Both end with the same
//! exit code, and print the same where the row does not say why not. `docs/command-line.md` has what spire-agent's command
//! line does, row by row, with the test of each; that those tests exist is checked here.

mod rows;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::{build_finial, needs, skipped};
use libtest_mimic::{Failed, Trial};
use tempfile::TempDir;

use rows::{ROWS, Real, Row};

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("command_line_rows", ours),
        Trial::test("command_line_rows_name_tests_that_exist", documented),
    ];
    let (rows, words) =
        ("command_line_rows_by_the_real_agent", "completion_offers_what_the_real_agent_offers");
    match needs("SPIRE_AGENT", "spire-agent") {
        Ok(real) => {
            let program = real.clone();
            trials.push(Trial::test(rows, move || crosswise(&program)));
            trials.push(Trial::test(words, move || completions(&real)));
        }
        Err(reason) => trials.extend([skipped(rows, &reason), skipped(words, &reason)]),
    }
    trials
}

/// What a program said.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// A folder with the files that rows name. Programs have the same name in it.
fn folder(program: &Path) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let own = folder.path().join("spire-agent");
    std::os::unix::fs::symlink(program, &own).expect("linked");
    for (name, text) in rows::FILES {
        fs::write(folder.path().join(name), text).expect("written");
    }
    (folder, own)
}

fn said(folder: &Path, program: &Path, words: &str, environment: &[(&str, &str)]) -> Said {
    let mut command = Command::new(program);
    command.current_dir(folder).args(words.split_whitespace()).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SPIRE_AGENT_")) {
        command.env_remove(name);
    }
    let output = command.envs(environment.iter().copied()).output().expect("it runs");
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).replace(&folder.display().to_string(), "FOLDER");
        // The real agent adds a line to the help of some commands, and slashes to the path of an admin socket.
        text.replace("flag: help requested\n", "").replace(" dial unix ///", " dial unix /")
    };
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

fn ours() -> Result<(), Failed> {
    let (folder, program) = folder(&build_finial());
    for Row { line, environment, code, out, err, .. } in ROWS {
        let said = said(folder.path(), &program, line, environment);
        assert_eq!(said.code, Some(*code), "{line}: {said:?}");
        assert!(said.out.contains(out) && (!out.is_empty() || said.out.is_empty()), "{line}: {said:?}");
        assert!(said.err.contains(err) && (!err.is_empty() || said.err.is_empty()), "{line}: {said:?}");
    }
    Ok(())
}

fn crosswise(real: &Path) -> Result<(), Failed> {
    let (ours, finial) = folder(&build_finial());
    let (theirs, real) = folder(real);
    for Row { line, environment, real: agreed, .. } in ROWS {
        let said_by_us = said(ours.path(), &finial, line, environment);
        let said_by_it = said(theirs.path(), &real, line, environment);
        assert_eq!(said_by_us.code, said_by_it.code, "{line}: {said_by_us:?}, {said_by_it:?}");
        match agreed {
            Real::Same => assert_eq!(said_by_us, said_by_it, "{line}"),
            Real::Differs(why) => assert_ne!(said_by_us, said_by_it, "{line}: no difference any more: {why}"),
        }
    }
    Ok(())
}

/// Finial completes more, but nothing less.
fn completions(real: &Path) -> Result<(), Failed> {
    let (folder, real) = folder(real);
    let finial = build_finial();
    for line in rows::COMPLETED {
        let words = |program: &Path| {
            let said = said(folder.path(), program, "run", &[("COMP_LINE", line)]);
            assert_eq!((said.code, &*said.err), (Some(0), ""), "{line}");
            said.out.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let (ours, theirs) = (words(&finial), words(&real));
        assert!(theirs.iter().all(|word| ours.contains(word)), "{line:?}: {theirs:?}, not {ours:?}");
    }
    Ok(())
}

/// Each name in the last column of the document's tables is that of a test.
fn documented() -> Result<(), Failed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let document = fs::read_to_string(root.join("docs/command-line.md"))?;
    let mut sources = String::new();
    for folder in ["agent/src", "config", "tests/tests"] {
        read_all(&root.join(folder), &mut sources);
    }
    let (mut rows, mut missing, mut has_tests) = (0, Vec::new(), false);
    for row in document.lines().filter(|line| line.starts_with("| ")) {
        let last = row.trim_end_matches(['|', ' ']).rsplit(" | ").next().unwrap_or_default();
        // The head of a table.
        if last == "tests" || row.starts_with("| exit code ") {
            has_tests = last == "tests";
            continue;
        }
        if !has_tests {
            continue;
        }
        let names: Vec<&str> = last.split(", ").map(|name| name.trim_matches('`')).collect();
        rows += 1;
        let exists = |name: &&str| {
            let is_program = name.starts_with("cargo verify");
            is_program
                || sources.contains(&format!("fn {name}()"))
                || sources.contains(&format!("\"{name}\""))
        };
        missing.extend(names.into_iter().filter(|name| !exists(name)).map(|name| format!("{name}: {row}")));
    }
    assert!(rows > 40 && missing.is_empty(), "{rows} rows; {missing:#?}");
    Ok(())
}

fn read_all(folder: &Path, sources: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_all(&path, sources);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            sources.push_str(&fs::read_to_string(path).expect("text"));
        }
    }
}
