use super::*;

fn parsed(line: &str) -> String {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    format!("{:?}", parse(&words))
}

#[test]
fn the_longest_command_wins() {
    for (line, expected) in [
        ("run", "Run(Run, [])"),
        ("run -config x", r#"Run(Run, ["-config", "x"])"#),
        ("api fetch", "Run(Fetch, [])"),
        ("api fetch x509 -silent", r#"Run(FetchX509, ["-silent"])"#),
        ("api fetch nope", r#"Run(Fetch, ["nope"])"#),
        ("api fetch -- x", r#"Run(Fetch, ["--", "x"])"#),
        ("api fetch jwt", "Run(FetchJwt, [])"),
        ("api validate jwt -svid x", r#"Run(ValidateJwt, ["-svid", "x"])"#),
        ("run -version", r#"Run(Run, ["-version"])"#),
        ("run -- -h", r#"Run(Run, ["--", "-h"])"#),
    ] {
        assert_eq!(parsed(line), expected, "{line}");
    }
}

#[test]
fn help_version_and_mistakes() {
    for (line, expected) in [
        ("", "Help { topic: Program, code: 127 }"),
        ("nope", "Help { topic: Program, code: 127 }"),
        ("version", "Help { topic: Program, code: 127 }"),
        ("runx", "Help { topic: Program, code: 127 }"),
        ("-foo", "Help { topic: Program, code: 127 }"),
        ("-h", "Help { topic: Program, code: 0 }"),
        ("--help", "Help { topic: Program, code: 0 }"),
        ("api", r#"Help { topic: Parent("api"), code: 1 }"#),
        ("api fetchx", r#"Help { topic: Parent("api"), code: 1 }"#),
        ("api -help", r#"Help { topic: Parent("api"), code: 0 }"#),
        ("run -config -h", "Help { topic: Command(Run), code: 0 }"),
        ("-h run", "Help { topic: Command(Run), code: 0 }"),
        ("-version", "Version"),
        ("-v run", "Version"),
        ("--version", "Version"),
        ("-foo run", "MisplacedFlags(Command(Run))"),
        ("-autocomplete-install", "Installation(Install)"),
        ("run --autocomplete-uninstall", "Installation(Uninstall)"),
        ("-autocomplete-install -autocomplete-uninstall", "Installation(Both)"),
        ("-autocomplete-install -h", "Help { topic: Program, code: 0 }"),
        ("-v -autocomplete-install", "Version"),
        ("run -- -autocomplete-install", r#"Run(Run, ["--", "-autocomplete-install"])"#),
        ("man api fetch", r#"Run(Man, ["api", "fetch"])"#),
    ] {
        assert_eq!(parsed(line), expected, "{line}");
    }
}

#[test]
fn help_is_titled_with_the_name_of_the_program() {
    let text = help(Topic::Program, "spire-agent");
    assert!(text.starts_with(
        "Usage: spire-agent [--version] [--help] <command> [<args>]\n\nAvailable commands are:\n"
    ));
    assert!(text.contains(
        "\n    debug          \n    explain        Tells why a process has, or lacks, an identity\n    healthcheck    Determines agent health status\n"
    ));
    assert!(text.ends_with("\n    validate       Validates a SPIRE agent configuration file\n"));
}

#[test]
fn parents_list_what_is_below_them() {
    let text = help(Topic::Parent("api"), "finial");
    let expected = "This command is accessed by using one of the subcommands below.\n\nSubcommands:\n    \
                    fetch       Fetches X509 SVIDs from the Workload API\n    \
                    validate    \n    \
                    watch       Attaches to the Workload API and prints updates as they're received";
    assert_eq!(text, expected);
    let fetch = help(Topic::Command(Command::Fetch), "finial");
    assert!(
        fetch.contains("Usage of fetch x509:\n")
            && fetch.contains("\n\nSubcommands:\n    jwt     Fetches a JWT")
    );
}

#[test]
fn every_parent_is_the_beginning_of_a_command() {
    for parent in PARENTS {
        assert!(!children(parent).is_empty(), "{parent}");
    }
    assert!(COMMANDS.is_sorted_by_key(|entry| entry.name));
}
