//! The tree of commands: which command the words of the command line ask for, and the help that lists the commands.

use std::fmt::Write as _;

use super::admin::{self, Admin};
use super::complete::install::Order;
use super::complete::scripts;
use super::flags::FlagSet;
use super::{check, fetch, health, inspect, jwt, keep, load, manual, san, top, watch};

/// A command that can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Run,
    Validate,
    Check,
    Completion,
    Healthcheck,
    Keep,
    /// `api fetch`, which is [`Self::FetchX509`] and has commands below it.
    Fetch,
    FetchX509,
    FetchJwt,
    ValidateJwt,
    Man,
    SanCheck,
    Watch,
    Admin(Admin),
    Explain,
    Issuance,
    Top,
}

impl Command {
    /// The flags that the command takes.
    pub(super) fn flags(self) -> &'static FlagSet {
        match self {
            Self::Run => &load::RUN_FLAGS,
            Self::Keep => &keep::KEEP_FLAGS,
            Self::Validate => &load::VALIDATE_FLAGS,
            Self::Check => &check::FLAGS,
            Self::Completion => &scripts::FLAGS,
            Self::Man => &manual::FLAGS,
            Self::Healthcheck => &health::FLAGS,
            Self::Fetch | Self::FetchX509 => &fetch::FLAGS,
            Self::FetchJwt => &jwt::FETCH_FLAGS,
            Self::ValidateJwt => &jwt::VALIDATE_FLAGS,
            Self::SanCheck => &san::FLAGS,
            Self::Watch => &watch::FLAGS,
            Self::Explain => &inspect::EXPLAIN_FLAGS,
            Self::Issuance => &inspect::ISSUANCE_FLAGS,
            Self::Top => &top::FLAGS,
            Self::Admin(Admin::GetInfo) => &admin::GET_INFO,
            Self::Admin(Admin::LoggerGet) => &admin::LOGGER_GET,
            Self::Admin(Admin::LoggerSet) => &admin::LOGGER_SET,
            Self::Admin(Admin::LoggerReset) => &admin::LOGGER_RESET,
        }
    }

    /// What the help and the manual add to the flags of a command that spire-agent does not have.
    pub(super) fn more(self) -> Option<&'static str> {
        match self {
            Self::Check => Some(check::MORE),
            Self::Keep => Some(keep::MORE),
            Self::Completion => Some(scripts::HOW),
            Self::Man => Some(manual::HOW),
            _ => None,
        }
    }

    /// What its exit codes mean.
    pub(super) fn exit_codes(self) -> &'static str {
        match self {
            Self::Run => "0 after SIGINT or SIGTERM, 1 if the agent cannot start or must end.",
            Self::Keep => "Those of `run`.",
            Self::Validate => "0 if the configuration is valid, 1 if it is not.",
            Self::Check => check::EXIT_CODES,
            Self::Healthcheck => "0 if the agent is healthy, 1 if it is not or does not answer.",
            Self::SanCheck => {
                "0 if the certificate is accepted, 1 if it is rejected, 2 if there is no verdict."
            }
            Self::Watch => "1, because only an error or an interruption ends it.",
            _ => "0 for success, 1 for a failure.",
        }
    }
}

/// The meaning of a command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    Version,
    /// Help about a topic, and the exit code.
    Help {
        topic: Topic<'a>,
        code: u8,
    },
    /// There are flags before the command.
    MisplacedFlags(Topic<'a>),
    /// Installs or removes completion.
    Installation(Order),
    /// Runs the command with the words after it.
    Run(Command, &'a [String]),
}

/// The topic of the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Topic<'a> {
    Program,
    /// The first words of several commands, such as `logger`.
    Parent(&'a str),
    Command(Command),
}

/// Reads the words after the program's name, as mitchellh/cli does.
pub(super) fn parse(words: &[String]) -> Request<'_> {
    let before_dashes = || words.iter().map(String::as_str).take_while(|word| *word != "--");
    let help = before_dashes().any(|word| HELP.contains(&word));
    let first = words.iter().position(|word| !word.is_empty() && !word.starts_with('-'));
    let at = first.unwrap_or(words.len());
    let top: Vec<&str> = before_dashes().take(at).collect();
    if top.iter().any(|word| VERSION.contains(word)) {
        return Request::Version;
    }
    if help && at == words.len() {
        return Request::Help { topic: Topic::Program, code: 0 };
    }
    let ordered =
        |flag: &str| before_dashes().any(|word| word.trim_start_matches('-') == flag && is_flag(word));
    match (ordered("autocomplete-install"), ordered("autocomplete-uninstall")) {
        (false, false) => {}
        (true, false) => return Request::Installation(Order::Install),
        (false, true) => return Request::Installation(Order::Uninstall),
        (true, true) => return Request::Installation(Order::Both),
    }
    if at == words.len() || top.len() < at {
        return Request::Help { topic: Topic::Program, code: if help { 0 } else { UNKNOWN } };
    }
    let name_words =
        words[at..].iter().take_while(|word| !word.starts_with('-') && !word.contains(' ')).count();
    let found = (1..=name_words).rev().find_map(|count| {
        let name = words[at..at + count].join(" ");
        Some((find(&name)?, at + count))
    });
    match found {
        None => Request::Help { topic: Topic::Program, code: UNKNOWN },
        Some((topic, _)) if help => Request::Help { topic, code: 0 },
        Some((topic, _)) if top.iter().any(|word| !HELP.contains(word) && !word.is_empty()) => {
            Request::MisplacedFlags(topic)
        }
        Some((Topic::Command(command), end)) => Request::Run(command, &words[end..]),
        Some((topic, _)) => Request::Help { topic, code: 1 },
    }
}

/// Whether a word has the one or two dashes of a flag.
fn is_flag(word: &str) -> bool {
    word.starts_with('-') && !word.starts_with("---")
}

fn find(name: &str) -> Option<Topic<'static>> {
    let command = entry_of(name).map(|entry| Topic::Command(entry.command));
    command.or_else(|| PARENTS.iter().find(|parent| **parent == name).map(|parent| Topic::Parent(parent)))
}

/// All commands, sorted by name.
pub(super) fn entries() -> &'static [Entry] {
    COMMANDS
}

/// The command of this name.
pub(super) fn entry_of(name: &str) -> Option<&'static Entry> {
    COMMANDS.iter().find(|entry| entry.name == name)
}

/// The flags of the command of this name.
pub(super) fn flags_of(name: &str) -> Option<&'static FlagSet> {
    entry_of(name).map(|entry| entry.command.flags())
}

/// The help on a topic, without the last newline.
pub(super) fn help(topic: Topic<'_>, program: &str) -> String {
    match topic {
        Topic::Program => format!(
            "Usage: {program} [--version] [--help] <command> [<args>]\n\nAvailable commands are:\n{}",
            list(&children(""))
        ),
        Topic::Parent(name) => {
            let list = list(&children(name));
            let list = list.trim_end();
            format!("This command is accessed by using one of the subcommands below.\n\nSubcommands:\n{list}")
        }
        Topic::Command(command) => {
            let usage = command.flags().usage();
            match command {
                Command::Fetch => {
                    format!("{usage}\n\nSubcommands:\n{}", list(&children("api fetch")).trim_end())
                }
                // With an empty line at the end, as from spire-agent.
                Command::FetchX509 | Command::FetchJwt | Command::ValidateJwt | Command::Healthcheck => {
                    format!("{usage}\n")
                }
                _ => match command.more() {
                    Some(more) => format!("{usage}\n\n{more}\n\nExit codes: {}", command.exit_codes()),
                    None => usage,
                },
            }
        }
    }
}

/// The words that can follow `parent`, each once. A word that completes a command has its synopsis.
pub(super) fn children(parent: &str) -> Vec<(&'static str, &'static str)> {
    let mut children: Vec<(&str, &str)> = Vec::new();
    for entry in COMMANDS {
        let rest = match parent {
            "" => Some(entry.name),
            parent => entry.name.strip_prefix(parent).and_then(|rest| rest.strip_prefix(' ')),
        };
        let Some(rest) = rest else { continue };
        let (word, synopsis) = rest.split_once(' ').map_or((rest, entry.synopsis), |(word, _)| (word, ""));
        if children.last().is_none_or(|(last, _)| *last != word) {
            children.push((word, synopsis));
        }
    }
    children
}

fn list(children: &[(&str, &str)]) -> String {
    let width = children.iter().map(|(word, _)| word.len()).max().unwrap_or_default();
    let mut list = String::new();
    for (word, synopsis) in children {
        let _ = writeln!(list, "    {word:width$}    {synopsis}");
    }
    list
}

/// A command, as the help names it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) command: Command,
    pub(super) synopsis: &'static str,
}

const fn entry(name: &'static str, command: Command, synopsis: &'static str) -> Entry {
    Entry { name, command, synopsis }
}

/// All commands, sorted by name, so that the commands of one parent are adjacent.
const COMMANDS: &[Entry] = &[
    entry("api fetch", Command::Fetch, FETCH_X509),
    entry("api fetch jwt", Command::FetchJwt, "Fetches a JWT SVID from the Workload API"),
    entry("api fetch x509", Command::FetchX509, FETCH_X509),
    entry("api validate jwt", Command::ValidateJwt, "Validates a JWT SVID"),
    entry("api watch", Command::Watch, "Attaches to the Workload API and prints updates as they're received"),
    entry("check", Command::Check, "Looks at this node before an agent runs here, and says what to change"),
    entry("completion", Command::Completion, "Prints a script that makes a shell complete command lines"),
    entry("debug getinfo", Command::Admin(Admin::GetInfo), "Prints debug information about the agent"),
    entry("explain", Command::Explain, "Tells why a process has, or lacks, an identity"),
    entry("healthcheck", Command::Healthcheck, "Determines agent health status"),
    entry("issuance", Command::Issuance, "Lists who was lately given which identity, and what was refused"),
    entry("keep", Command::Keep, "Runs the agent, and starts it again with its sockets and identities"),
    entry("logger get", Command::Admin(Admin::LoggerGet), "Gets the logger details"),
    entry("logger reset", Command::Admin(Admin::LoggerReset), "Reset the logger details to launch level"),
    entry("logger set", Command::Admin(Admin::LoggerSet), "Sets the logger details"),
    entry("man", Command::Man, "Prints the manual, or the page of a command, for man(1)"),
    entry("run", Command::Run, "Runs the agent"),
    entry(
        "san check",
        Command::SanCheck,
        "Tells whether an Envoy would accept a peer's certificate, and why",
    ),
    entry("top", Command::Top, "Shows a running agent: callers, identities, streams, memory"),
    entry("validate", Command::Validate, "Validates a SPIRE agent configuration file"),
];
const FETCH_X509: &str = "Fetches X509 SVIDs from the Workload API";
const PARENTS: &[&str] = &["api", "api validate", "debug", "logger", "san"];
const HELP: &[&str] = &["-h", "-help", "--help"];
const VERSION: &[&str] = &["-v", "-version", "--version"];
/// The exit code for a command that does not exist.
const UNKNOWN: u8 = 127;

#[cfg(test)]
mod tests;
