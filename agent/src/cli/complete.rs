//! Completion of command lines: the words that can come next, and what makes a shell ask for them.
//!
//! A shell runs the program with `COMP_LINE`, and `COMP_POINT` if the cursor is not at the end, and the program prints a
//! word on each line (spire-agent does so by posener/complete). Beyond spire-agent's commands, flags and their values are
//! completed too. `scripts` has what `completion` prints, `install` what `-autocomplete-install` changes.

pub(super) mod install;
pub(super) mod scripts;

use std::fs;
use std::path::Path;

use super::command::{children, flags_of};

/// The words that can stand where the cursor is; `None` if no shell asks. `variable` reads the environment.
pub(super) fn asked(variable: impl Fn(&str) -> Option<String>) -> Option<Vec<String>> {
    let mut line = variable("COMP_LINE").filter(|line| !line.is_empty())?;
    let point = variable("COMP_POINT").and_then(|point| point.parse::<usize>().ok());
    if let Some(point) = point.filter(|point| line.is_char_boundary(*point)) {
        line.truncate(point);
    }
    Some(words(&line))
}

/// The words that can end a line.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    if line.ends_with(char::is_whitespace) {
        words.push("");
    }
    let last = words.pop().unwrap_or_default();
    if words.is_empty() {
        return Vec::new();
    }
    // `-flag=value` is as `-flag value`, in the last word.
    let (name, last) = last.split_once('=').map_or((None, last), |(name, value)| (Some(name), value));
    words.extend(name);
    let mut found = predict("", &words[1..], last);
    found.retain(|word| word.starts_with(last));
    found.sort();
    found.dedup();
    found
}

/// What can follow the words `typed` after the command `command`.
fn predict(command: &str, typed: &[&str], last: &str) -> Vec<String> {
    let below = children(command);
    let deeper = typed.iter().enumerate().find(|(_, word)| below.iter().any(|(child, _)| child == *word));
    if let Some((place, word)) = deeper {
        let command = format!("{command} {word}");
        return predict(command.trim_start(), &typed[place + 1..], last);
    }
    match command {
        "completion" => return scripts::SHELLS.map(str::to_owned).to_vec(),
        "man" => return predict("", typed, last),
        _ => {}
    }
    let flags = flags_of(command);
    let before = typed.last().map(|word| word.trim_start_matches('-'));
    let takes_value = flags.and_then(|set| set.flags.iter().find(|flag| Some(flag.name()) == before));
    if let Some(flag) = takes_value.filter(|flag| !flag.is_switch()) {
        return values(flag.name(), last);
    }
    let mut found: Vec<String> = below.iter().map(|(child, _)| (*child).to_owned()).collect();
    if last.starts_with('-') {
        let dashes = if last.starts_with("--") { "--" } else { "-" };
        match flags {
            Some(set) => found.extend(set.flags.iter().map(|flag| format!("{dashes}{}", flag.name()))),
            None if command.is_empty() => found.extend(TOP.map(str::to_owned)),
            None => {}
        }
    }
    found
}

/// The values of a flag, as far as they are known.
fn values(flag: &str, last: &str) -> Vec<String> {
    let known: &[&str] = match flag {
        "output" | "format" => &["json", "pretty"],
        "level" => &["debug", "error", "fatal", "info", "panic", "trace", "warn"],
        "logLevel" => &["debug", "error", "info", "warn"],
        "logFormat" => &["json", "text"],
        "rebootstrapMode" => &["always", "auto", "never"],
        "trustBundleFormat" => &["pem", "spiffe"],
        "cert" | "config" | "dataDir" | "joinTokenFile" | "logFile" | "policy" | "sds" | "socketPath"
        | "trustBundle" | "write" => return files(last),
        _ => &[],
    };
    known.iter().map(|value| (*value).to_owned()).collect()
}

/// The files whose paths begin so; folders with a slash at the end. Hidden ones only if the dot is typed.
fn files(begin: &str) -> Vec<String> {
    let (folder, name) = begin.rsplit_once('/').map_or(("", begin), |(folder, name)| (folder, name));
    let prefix = &begin[..begin.len() - name.len()];
    let place = if prefix.is_empty() {
        "."
    } else if folder.is_empty() {
        "/"
    } else {
        folder
    };
    let Ok(entries) = fs::read_dir(Path::new(place)) else { return Vec::new() };
    let path = |entry: fs::DirEntry| {
        let found = entry.file_name().into_string().ok()?;
        let wanted = found.starts_with(name) && (name.starts_with('.') || !found.starts_with('.'));
        let slash = if entry.path().is_dir() { "/" } else { "" };
        wanted.then(|| format!("{prefix}{found}{slash}"))
    };
    entries.flatten().take(MOST_FILES).filter_map(path).collect()
}

/// The flags before a command.
const TOP: [&str; 4] = ["-autocomplete-install", "-autocomplete-uninstall", "-help", "-version"];
/// The most entries of a folder that are looked at: nobody chooses from more.
const MOST_FILES: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> String {
        words(line).join(" ")
    }

    #[test]
    fn commands_flags_and_values() {
        for (line, expected) in [
            ("finial", ""),
            ("finial r", "run"),
            ("finial api ", "fetch validate watch"),
            ("finial api f", "fetch"),
            ("finial api fetch ", "jwt x509"),
            ("finial api nope ", "fetch validate watch"),
            ("finial -", "-autocomplete-install -autocomplete-uninstall -help -version"),
            ("finial run ", ""),
            ("finial run -log", "-logFile -logFormat -logLevel -logSourceLocation"),
            ("finial run --logS", "--logSourceLocation"),
            ("finial run -logLevel ", "debug error info warn"),
            ("finial run -logFormat=j", "json"),
            ("finial run -expandEnv -rebootstrapMode a", "always auto"),
            ("finial run -joinToken ", ""),
            ("finial check -out", "-output"),
            ("finial logger set -level=p", "panic"),
            ("finial api fetch jwt -aud", "-audience"),
            ("finial completion ", "bash fish zsh"),
            ("finial man api fetch x", "x509"),
            ("finial man lo", "logger"),
        ] {
            assert_eq!(told(line), expected, "{line}");
        }
        assert!(
            told("finial ").starts_with(
                "api check completion debug explain healthcheck issuance keep logger man run san"
            )
        );
    }

    #[test]
    fn files_after_flags_that_take_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        for name in ["agent.conf", "agents", ".hidden"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("agent.d")).unwrap();
        let expected = format!("{path}/agent.conf {path}/agent.d/ {path}/agents");
        assert_eq!(told(&format!("finial run -config {path}/")), expected);
        assert_eq!(told(&format!("finial run -config={path}/agent.c")), format!("{path}/agent.conf"));
        assert_eq!(told(&format!("finial run -config {path}/.")), format!("{path}/.hidden"));
        assert_eq!(told("finial run -config /nope/"), "");
    }

    #[test]
    fn a_shell_asks_by_its_variables() {
        let of = |line: &'static str, point: &'static str| {
            asked(|name| Some(if name == "COMP_LINE" { line } else { point }.to_owned()))
        };
        assert_eq!(of("", ""), None);
        assert_eq!(of("finial api fetch", "12"), Some(vec!["fetch".to_owned()]));
        assert_eq!(of("finial he", "100"), Some(vec!["healthcheck".to_owned()]));
        assert_eq!(of("finial he", "x"), Some(vec!["healthcheck".to_owned()]));
        assert_eq!(of("finial \u{e4}", "8"), Some(Vec::new()), "in the middle of a letter");
    }
}
