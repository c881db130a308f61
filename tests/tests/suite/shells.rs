//! Completion in real shells, and manual pages that real formatters take.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use harness::{build_finial, needs, python, skipped};
use libtest_mimic::{Failed, Trial};
use tempfile::TempDir;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        in_shell("bash_completes_by_the_script", "bash", &["--norc", "--noprofile", "-i"], BASH),
        in_shell("zsh_completes_by_the_script", "zsh", &["-f", "-i"], ZSH),
        in_shell("fish_completes_by_the_script", "fish", &["--no-config", "-i"], FISH),
        of_shell("bash_completes_by_installed_lines", "bash", |bash, python| installed(&bash, &python)),
        Trial::test("completion_by_comp_line", comp_line),
        Trial::test("completion_is_installed_and_removed", installation),
        page_trial("manual_pages_are_taken_by_mandoc", "mandoc", &["-T", "lint", "-W", "warning"]),
        page_trial("manual_pages_are_taken_by_groff", "groff", &["-man", "-ww", "-z", "-T", "ascii"]),
        Trial::test("a_command_without_a_page_is_named", no_page),
    ]
}

/// A trial that needs a shell, and Python to type into it.
fn of_shell(
    name: &str,
    shell: &str,
    test: impl FnOnce(PathBuf, PathBuf) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    let needed = needs(&format!("FINIAL_{}", shell.to_uppercase()), shell)
        .and_then(|shell| Ok((shell, python(&["pty", "termios"])?)));
    match needed {
        Ok((shell, python)) => Trial::test(name, move || test(shell, python)),
        Err(reason) => skipped(name, &reason),
    }
}

fn in_shell(
    name: &'static str,
    kind: &'static str,
    arguments: &'static [&'static str],
    show: &'static str,
) -> Trial {
    of_shell(name, kind, move |shell, python| {
        let folder = folder();
        let path = folder.path();
        let script = finial(path).args(["completion", kind]).output()?;
        assert!(script.status.success() && script.stderr.is_empty(), "{script:?}");
        fs::write(path.join("script"), &script.stdout)?;
        let setup = format!("{}\n{show}\n", source(kind));
        let lines = type_lines(path, &python, &setup, &[&[&*shell.to_string_lossy()], arguments].concat());
        assert_eq!(lines, EXPECTED.map(|(_, expected)| expected), "{kind}");
        Ok(())
    })
}

/// What makes the shell read the script.
fn source(shell: &str) -> &'static str {
    match shell {
        "zsh" => "autoload -Uz compinit && compinit -u -D\nsource script",
        _ => "source script",
    }
}

/// The lines that are typed in a folder, and what they become.
const EXPECTED: [(&str, &str); 8] = [
    ("finial healthc", "finial healthcheck "),
    ("finial api val", "finial api validate "),
    ("finial run -logSource", "finial run -logSourceLocation "),
    ("finial run -logLevel de", "finial run -logLevel debug "),
    ("finial check -timeout 1s -outp", "finial check -timeout 1s -output "),
    ("finial run -config age", "finial run -config agent.conf "),
    ("finial run -config conf/oth", "finial run -config conf/other.conf "),
    ("finial run -logFormat=te", "finial run -logFormat=text "),
];

/// Writes the line to the FIFO at Ctrl-G, and tells that this is so.
const BASH: &str = r#"bind -x '"\C-g": printf "%s\n" "$READLINE_LINE" > "$LINES_TO"'
echo ready > "$LINES_TO""#;
const ZSH: &str = r#"show() { print -r -- "$BUFFER" > "$LINES_TO" }
zle -N show
bindkey '^G' show
bindkey '^U' kill-whole-line
print ready > "$LINES_TO""#;
const FISH: &str = r#"bind \cg 'commandline > "$LINES_TO"'
bind \cu 'commandline ""'
echo ready > "$LINES_TO""#;

/// A folder with the program under its usual name, and files.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::os::unix::fs::symlink(build_finial(), folder.path().join("finial")).expect("linked");
    fs::write(folder.path().join("agent.conf"), "").expect("written");
    fs::create_dir(folder.path().join("conf")).expect("made");
    fs::write(folder.path().join("conf/other.conf"), "").expect("written");
    folder
}

/// The program in a folder, with the folder as the user's home.
fn finial(folder: &Path) -> Command {
    let mut command = Command::new(folder.join("finial"));
    command.current_dir(folder).env("HOME", folder).env_remove("XDG_CONFIG_HOME");
    command
}

fn type_lines(folder: &Path, python: &Path, setup: &str, shell: &[&str]) -> Vec<String> {
    fs::write(folder.join("setup"), setup).expect("written");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/shell.py")).arg("setup");
    command.args(EXPECTED.map(|(typed, _)| typed)).arg("--").args(shell);
    command.current_dir(folder).env("HOME", folder).env_remove("XDG_CONFIG_HOME");
    let output = command.env("PATH", format!("{}:{path}", folder.display())).output().expect("it runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// The lines of `-autocomplete-install` alone. bash calls the program for each word.
fn installed(bash: &Path, python: &Path) -> Result<(), Failed> {
    let folder = folder();
    fs::write(folder.path().join(".bashrc"), "")?;
    assert!(finial(folder.path()).arg("-autocomplete-install").status()?.success());
    let shell = [&*bash.to_string_lossy(), "--norc", "--noprofile", "-i"];
    let lines = type_lines(folder.path(), python, &format!("source .bashrc\n{BASH}\n"), &shell);
    assert_eq!(lines, EXPECTED.map(|(_, expected)| expected));
    Ok(())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn comp_line() -> Result<(), Failed> {
    let folder = folder();
    for (line, expected) in [
        ("finial api fe", "fetch\n"),
        ("finial api fetch x", "x509\n"),
        ("finial completion ", "bash\nfish\nzsh\n"),
        ("finial run -nope", ""),
        ("finial -autocomplete-i", "-autocomplete-install\n"),
    ] {
        // What the program would otherwise do is not done.
        let output = finial(folder.path()).env("COMP_LINE", line).arg("run").output()?;
        assert_eq!((output.status.code(), &*text(&output)), (Some(0), expected), "{line}");
    }
    Ok(())
}

fn installation() -> Result<(), Failed> {
    let folder = folder();
    let run = |flag: &str| finial(folder.path()).arg(flag).output();
    let refused = run("-autocomplete-install")?;
    assert_eq!(refused.status.code(), Some(1));
    fs::write(folder.path().join(".zshrc"), "setopt x\n")?;
    assert!(run("--autocomplete-install")?.status.success());
    let zshrc = || fs::read_to_string(folder.path().join(".zshrc"));
    assert!(zshrc()?.contains("complete -o nospace -C /") && zshrc()?.ends_with(" finial\n"), "{}", zshrc()?);
    assert_eq!(run("-autocomplete-install")?.status.code(), Some(1));
    assert!(run("-autocomplete-uninstall")?.status.success());
    assert!(!zshrc()?.contains("complete -o"), "{}", zshrc()?);
    Ok(())
}

/// The names of all commands: the manual of the program has a paragraph for each.
fn commands() -> Vec<String> {
    let output = Command::new(build_finial()).arg("man").output().expect("it runs");
    let page = text(&output);
    let (_, commands) = page.split_once(".SH COMMANDS\n").expect("commands");
    let (commands, _) = commands.split_once(".SH ").expect("another section");
    commands.lines().filter_map(|line| line.strip_prefix(".B ")).map(str::to_owned).collect()
}

fn page_trial(name: &'static str, program: &'static str, arguments: &'static [&'static str]) -> Trial {
    let needed = needs(&format!("FINIAL_{}", program.to_uppercase()), program);
    let formatter = match needed {
        Ok(formatter) => formatter,
        Err(reason) => return skipped(name, &reason),
    };
    Trial::test(name, move || {
        let folder = tempfile::tempdir()?;
        let commands = commands();
        assert!(commands.len() > 12 && commands.contains(&"check".to_owned()), "{commands:?}");
        for command in [String::new()].into_iter().chain(commands) {
            let page = Command::new(build_finial()).arg("man").args(command.split_whitespace()).output()?;
            assert!(page.status.success() && page.stderr.is_empty(), "{command}: {page:?}");
            let file = folder.path().join("page.1");
            fs::write(&file, &page.stdout)?;
            let judged = Command::new(&formatter).args(arguments).arg(&file).output()?;
            let said = text(&judged) + &String::from_utf8_lossy(&judged.stderr);
            assert!(judged.status.success() && said.is_empty(), "{command}: {said}");
        }
        Ok(())
    })
}

fn no_page() -> Result<(), Failed> {
    let output = Command::new(build_finial()).args(["man", "nope"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.code() == Some(1) && said.contains("api fetch jwt") && said.contains("nope"),
        "{said}"
    );
    Ok(())
}
