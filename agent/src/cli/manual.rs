//! `man`: prints the manual, a page for the program and one for each command, made from the tables of the help.

use std::fmt::Write as _;
use std::process::ExitCode;

use super::command::{self, Command, Entry};
use super::console;
use super::flags::FlagSet;

/// Runs `man`.
pub(super) fn run(arguments: &[String]) -> ExitCode {
    let name = arguments.join(" ");
    let page = match &*name {
        "" => Some(program_page()),
        name => command::entry_of(name).map(command_page),
    };
    match page {
        Some(page) => {
            console::out(page.trim_end());
            ExitCode::SUCCESS
        }
        None => {
            let names: Vec<&str> = command::entries().iter().map(|entry| entry.name).collect();
            console::err(&format!("no manual page for {name:?}; there are pages for: {}", names.join(", ")));
            ExitCode::FAILURE
        }
    }
}

/// finial(1).
fn program_page() -> String {
    let mut page = head("finial", "a SPIFFE node agent, in the place of spire-agent");
    page.push_str(
        ".SH SYNOPSIS\n.B finial\n[\\fB\\-version\\fR] [\\fB\\-help\\fR] [\\fB\\-autocomplete\\-install\\fR] \
         [\\fB\\-autocomplete\\-uninstall\\fR]\n.I command\n[\\fIflags\\fR]\n.SH DESCRIPTION\n",
    );
    text(&mut page, ABOUT);
    page.push_str(".SH COMMANDS\n");
    for entry in command::entries() {
        let _ = writeln!(page, ".TP\n.B {}\n{}.", roff(entry.name), roff(entry.synopsis));
    }
    page.push_str(".SH OPTIONS\n");
    for (flag, usage) in [
        ("version", "Print the version, on standard error."),
        ("help", "Print the commands, or the flags of a command, on standard error."),
        (
            "autocomplete-install",
            "Have the user's shells complete command lines, by lines in .bashrc, .zshrc and fish's folder.",
        ),
        ("autocomplete-uninstall", "Remove these lines."),
    ] {
        let _ = writeln!(page, ".TP\n.B \\-{}\n{}", roff(flag), roff(usage));
    }
    page.push_str(".SH ENVIRONMENT\n");
    for (variable, usage) in ENVIRONMENT {
        let _ = writeln!(page, ".TP\n.B {}\n{}", roff(variable), roff(usage));
    }
    page.push_str(".SH EXIT STATUS\n");
    text(
        &mut page,
        "0 for success, 1 for a failure, 127 for a command that does not exist. Some commands have codes of their own.",
    );
    page.push_str(".SH SEE ALSO\n");
    let pages: Vec<String> =
        command::entries().iter().map(|entry| format!(".BR {} (1)", roff(&page_name(entry)))).collect();
    let _ = writeln!(page, "{}", pages.join(" ,\n"));
    page
}

/// The page of a command.
fn command_page(entry: &Entry) -> String {
    let name = page_name(entry);
    let mut page = head(&name, entry.synopsis);
    let words = match entry.command {
        Command::Completion => " bash|zsh|fish",
        Command::Man => " [\\fIcommand\\fR]",
        _ => " [\\fIflags\\fR]",
    };
    let _ = writeln!(page, ".SH SYNOPSIS\n.B finial {}\n{}", roff(entry.name), words.trim_start());
    page.push_str(".SH DESCRIPTION\n");
    let _ = writeln!(page, "{}.", roff(entry.synopsis));
    if let Some(more) = entry.command.more() {
        page.push_str(".PP\n");
        text(&mut page, more);
    }
    options(&mut page, entry.command.flags());
    page.push_str(".SH EXIT STATUS\n");
    text(&mut page, entry.command.exit_codes());
    page.push_str(".SH SEE ALSO\n.BR finial (1)\n");
    page
}

fn options(page: &mut String, set: &FlagSet) {
    if set.flags.is_empty() {
        return;
    }
    page.push_str(
        ".SH OPTIONS\nA flag has one or two dashes, and its value comes after a space or an equals sign.\n",
    );
    for flag in set.flags {
        let value = flag.value().map_or_else(String::new, |value| format!(" \\fI{value}\\fR"));
        let _ = writeln!(page, ".TP\n\\fB\\-{}\\fR{value}\n{}", roff(flag.name()), roff(&flag.explained()));
    }
}

fn head(name: &str, synopsis: &str) -> String {
    let title = roff(&name.to_uppercase());
    format!(
        ".TH {title} 1 {DATE} \"finial {}\" \"Finial\"\n.SH NAME\n{} \\- {}\n",
        roff(crate::version::own()),
        roff(name),
        roff(synopsis)
    )
}

fn page_name(entry: &Entry) -> String {
    format!("finial-{}", entry.name.replace(' ', "-"))
}

/// Paragraphs. Lines that begin with spaces stay as they are.
fn text(page: &mut String, text: &str) {
    let mut as_is = false;
    for line in text.lines() {
        let is_example = line.starts_with(' ');
        if is_example != as_is {
            page.push_str(if is_example { ".nf\n" } else { ".fi\n" });
            as_is = is_example;
        }
        let _ = match line {
            "" => writeln!(page, ".PP"),
            line => writeln!(page, "{}", roff(line)),
        };
    }
    if as_is {
        page.push_str(".fi\n");
    }
}

/// A text whose characters mean nothing to roff: no line of it is a request, no hyphen becomes another.
fn roff(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    if text.starts_with(['.', '\'']) {
        safe.push_str("\\&");
    }
    for character in text.chars() {
        match character {
            '\\' => safe.push_str("\\(rs"),
            '-' => safe.push_str("\\-"),
            '\'' => safe.push_str("\\(aq"),
            '`' => safe.push_str("\\(ga"),
            '~' => safe.push_str("\\(ti"),
            '^' => safe.push_str("\\(ha"),
            other => safe.push(other),
        }
    }
    safe
}

/// When the pages were last changed: formatters ask for a date.
const DATE: &str = "2026-11-30";
/// How to read the pages.
pub(super) const HOW: &str = "\
Without an argument it prints the page of the program, else that of the command of this name.

  finial man run | man -l -
  finial man api fetch x509 > /usr/local/share/man/man1/finial-api-fetch-x509.1";
/// `man` has no flags.
pub(super) const FLAGS: FlagSet = FlagSet { name: "man", flags: &[] };

const ABOUT: &str = "\
Attests its node to a SPIRE server, finds out who calls on its Unix socket, and gives callers their X.509-SVIDs, JWT-SVIDs
and trust bundles by the SPIFFE Workload API and by Envoy's SDS. Commands, flags, configuration, texts and files are those
of spire-agent 1.15.3.";

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "SPIRE_AGENT_PUBLIC_SOCKET",
        "The path of the public socket for healthcheck and api, unless -socketPath is given.",
    ),
    (
        "SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE",
        "The path of the socket of an instance; %i in it is the value of -instance.",
    ),
    (
        "HTTPS_PROXY, NO_PROXY",
        "The proxy to the server and to trust_bundle_url, and what is reached without it.",
    ),
    ("SSL_CERT_FILE, SSL_CERT_DIR", "The authorities of web servers."),
    ("MY_NODE_NAME", "The name of the node, for the k8s workload attestor."),
    ("HOST_PROC", "Where the host's procfs is mounted."),
    ("KUBECONFIG", "The access to the API server, outside of a pod."),
    ("COMP_LINE, COMP_POINT", "Set by a shell: the program prints completions and ends."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_flag_has_its_place() {
        let program = program_page();
        for entry in command::entries() {
            assert!(program.contains(&roff(entry.synopsis)), "{}", entry.name);
            let page = command_page(entry);
            assert!(page.contains(".SH EXIT STATUS\n"), "{}", entry.name);
            for flag in entry.command.flags().flags {
                let named = format!("\\fB\\-{}\\fR", flag.name());
                assert_eq!(page.matches(&named).count(), 1, "{}: {}", entry.name, flag.name());
            }
        }
    }

    #[test]
    fn nothing_in_a_text_is_a_request() {
        assert_eq!(roff(".SH x"), "\\&.SH x");
        assert_eq!(roff("a-b \\n 'c'"), "a\\-b \\(rsn \\(aqc\\(aq");
        let mut page = String::new();
        text(&mut page, "a\n\n  b -c\nd");
        assert_eq!(page, "a\n.PP\n.nf\n  b \\-c\n.fi\nd\n");
    }
}
