//! Command lines, and what becomes of them.

/// A command line and its outcome. `out` and `err` are parts of what is printed; empty for nothing at all.
pub(super) struct Row {
    pub(super) line: &'static str,
    pub(super) environment: &'static [(&'static str, &'static str)],
    pub(super) code: i32,
    pub(super) out: &'static str,
    pub(super) err: &'static str,
    pub(super) real: Real,
}

/// What the real agent says.
pub(super) enum Real {
    /// The same, to the letter.
    Same,
    /// The exit code is the same, and the text is not, for this reason.
    Differs(&'static str),
}

/// A row that ends with an error.
const fn fails(line: &'static str, err: &'static str) -> Row {
    Row { line, environment: &[], code: 1, out: "", err, real: Real::Same }
}

/// A row that prints help, which is on standard error.
const fn helps(line: &'static str, code: i32, err: &'static str, real: Real) -> Row {
    Row { line, environment: &[], code, out: "", err, real }
}

/// `validate` of a configuration that is valid.
const fn valid(line: &'static str, environment: &'static [(&'static str, &'static str)]) -> Row {
    let out = "SPIRE agent configuration file is valid.\n";
    Row { line, environment, code: 0, out, err: "", real: Real::Same }
}

/// A row whose socket is not served. The path in the error shows which one it was.
const fn dials(
    line: &'static str,
    environment: &'static [(&'static str, &'static str)],
    err: &'static str,
) -> Row {
    Row { line, environment, code: 1, out: "", err, real: Real::Same }
}

const OWN_COMMANDS: Real = Real::Differs("finial has commands of its own");
const PARENTS: Real = Real::Differs("spire-agent prints the usage of each subcommand first, by accident");
const LEADING_SPACE: Real = Real::Differs("spire-agent's text begins with a space");
const MORE_WORDS: Real = Real::Differs("finial adds what to write");

const fn but(row: Row, real: Real) -> Row {
    Row { real, ..row }
}

pub(super) const ROWS: &[Row] = &[
    // Which command it is.
    helps("", 127, "Usage: spire-agent [--version] [--help] <command> [<args>]\n", OWN_COMMANDS),
    helps("nope", 127, "Available commands are:\n", OWN_COMMANDS),
    helps("version", 127, "Available commands are:\n", OWN_COMMANDS),
    helps("apix fetch", 127, "Available commands are:\n", OWN_COMMANDS),
    helps("-- run", 127, "Available commands are:\n", OWN_COMMANDS),
    helps("-x", 127, "Available commands are:\n", OWN_COMMANDS),
    helps("api", 1, "Subcommands:\n    fetch ", PARENTS),
    helps("api validate", 1, "Subcommands:\n    jwt ", PARENTS),
    helps("debug", 1, "Subcommands:\n    getinfo ", PARENTS),
    helps("logger", 1, "Subcommands:\n    get ", PARENTS),
    helps("-x run", 1, "Invalid flags before the subcommand.", Real::Same),
    helps("-x -y api", 1, "Invalid flags before the subcommand.", PARENTS),
    // Help, also after the command and among its flags, but not after two dashes.
    helps("-h", 0, "Available commands are:\n", OWN_COMMANDS),
    helps("-help nope", 127, "Available commands are:\n", OWN_COMMANDS),
    helps("api -help", 0, "Subcommands:\n", PARENTS),
    helps("api fetch -h", 0, "Usage of fetch x509:\n", PARENTS),
    helps("api fetch x509 -h", 0, "Usage of fetch x509:\n", Real::Same),
    helps("api fetch jwt --help", 0, "Usage of fetch jwt:\n", Real::Same),
    helps("api validate jwt -h", 0, "Usage of validate jwt:\n", Real::Same),
    helps("api watch -h", 0, "Usage of watch:\n", Real::Same),
    helps("debug getinfo -h", 0, "Usage of debug getinfo:\n", Real::Same),
    helps("healthcheck -h", 0, "Usage of health:\n", Real::Same),
    helps("logger get -h", 0, "Usage of logger get:\n", Real::Same),
    helps("logger reset -h", 0, "Usage of logger reset:\n", Real::Same),
    helps("logger set -h", 0, "Usage of logger set:\n", Real::Same),
    helps("run -config x -h", 0, "Usage of run:\n", Real::Same),
    helps("-h run", 0, "Usage of run:\n", Real::Same),
    helps("validate -h", 0, "Usage of validate:\n", Real::Same),
    fails(
        "run -- -h",
        "could not find config file FOLDER/conf/agent/agent.conf: please use the -config flag\n",
    ),
    // The version, before the command only.
    helps("-version", 0, "1.15.3", Real::Differs("each names its build")),
    helps("-v nope", 0, "1.15.3", Real::Differs("each names its build")),
    fails("run -version", "flag provided but not defined: -version\n"),
    // Flags that are unknown, malformed or without a value.
    fails("run -nope", "flag provided but not defined: -nope\nUsage of run:\n"),
    fails("run -config", "flag needs an argument: -config\n"),
    fails("run ---config x", "bad flag syntax: ---config\n"),
    fails("run -=x", "bad flag syntax: -=x\n"),
    fails("run -serverPort x", "invalid value \"x\" for flag -serverPort: parse error\n"),
    fails("run -serverPort 99999999999999999999", "for flag -serverPort: value out of range\n"),
    fails("run -expandEnv=maybe", "invalid boolean value \"maybe\" for -expandEnv: parse error\n"),
    fails("api fetch -timeout 5", "invalid value \"5\" for flag -timeout: "),
    fails("api fetch -output yaml", "bad formatter flag: unknown format option: \"yaml\"\n"),
    fails("api fetch -output json -output pretty", "the output format has already been set to \"json\"\n"),
    fails("api fetch jwt -audience a -output json -format pretty", "the output format has already been set"),
    fails("api watch -x", "flag provided but not defined: -x\n"),
    fails("logger set -level", "flag needs an argument: -level\n"),
    fails(
        "validate -trustDomain",
        "SPIRE agent configuration file is invalid: flag needs an argument: -trustDomain\n",
    ),
    valid("validate -config good.conf", &[]),
    valid("validate --config=good.conf", &[]),
    valid("validate -config good.conf extra -nope", &[]),
    valid("validate -config good.conf -- -nope", &[]),
    // `false` is not the value of the switch, and ends the flags.
    valid("validate -config good.conf -expandEnv false -nope", &[]),
    // What must be given.
    fails("api fetch jwt", "audience must be specified\n"),
    fails("api validate jwt", "audience must be specified\n"),
    fails("api validate jwt -audience a", "svid must be specified\n"),
    fails("logger set", "Error: a value (-level) must be set\n"),
    fails("logger set -level loud", "Error: the value \"loud\" is not a valid setting\n"),
    // The public socket: the flag, the template, the variable, the default.
    dials("api fetch -socketPath nope.sock", &[], "dial unix FOLDER/nope.sock: connect: no such file"),
    dials("api fetch x509", &[("SPIRE_AGENT_PUBLIC_SOCKET", "/nope/env.sock")], "dial unix /nope/env.sock: "),
    dials(
        "api fetch -socketPath /nope/flag.sock",
        &[("SPIRE_AGENT_PUBLIC_SOCKET", "/nope/env.sock")],
        "dial unix /nope/flag.sock: ",
    ),
    dials(
        "api fetch -instance a",
        &[
            ("SPIRE_AGENT_PUBLIC_SOCKET", "/nope/env.sock"),
            ("SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE", "/nope/%i/%i.sock"),
        ],
        "dial unix /nope/a/a.sock: ",
    ),
    dials(
        "api fetch -instance a -socketPath /nope/flag.sock",
        &[("SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE", "/nope/%i.sock")],
        "dial unix /nope/flag.sock: ",
    ),
    // The default path counts as not given.
    dials(
        "api fetch -socketPath /tmp/spire-agent/public/api.sock",
        &[("SPIRE_AGENT_PUBLIC_SOCKET", "/nope/env.sock")],
        "dial unix /nope/env.sock: ",
    ),
    but(
        fails("api fetch -instance a", "SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE environment variable must be"),
        LEADING_SPACE,
    ),
    but(
        fails(
            "api fetch -instance a -socketPath /x",
            "SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE environment variable must be",
        ),
        LEADING_SPACE,
    ),
    dials("api fetch -instance a", &[("SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE", "/x")], "failed to find %i in "),
    // The admin commands do not read the variable.
    dials(
        "debug getinfo -socketPath /nope/admin.sock",
        &[("SPIRE_AGENT_PUBLIC_SOCKET", "/nope/env.sock")],
        "dial unix /nope/admin.sock: ",
    ),
    fails(
        "logger get -socketPath /nope/admin.sock -output json",
        "Error: error fetching logger: rpc error: ",
    ),
    fails("healthcheck -socketPath /nope/x.sock", "Agent is unhealthy: unable to determine health\n"),
    Row {
        line: "healthcheck -socketPath /nope/x.sock -verbose -shallow",
        environment: &[],
        code: 1,
        out: "Checking agent health...\n",
        err: "Failed to check health: ",
        real: Real::Same,
    },
    // The configuration.
    fails("run -config /nope.conf", "could not find config file /nope.conf: please use the -config flag\n"),
    fails(
        "validate",
        "SPIRE agent configuration file is invalid: could not find config file FOLDER/conf/agent",
    ),
    // A flag comes before the file, and a switch that is off before nothing.
    valid("validate -config good.conf -serverPort 8081 -logLevel debug", &[]),
    fails("validate -config good.conf -trustBundle b", "only one of insecure_bootstrap or trust_bundle_path"),
    fails(
        "validate -config good.conf -insecureBootstrap=false -trustBundle b",
        "only one of insecure_bootstrap or",
    ),
    fails(
        "validate -config good.conf -joinToken a -joinTokenFile b",
        "only one of join_token or join_token_file",
    ),
    fails(
        "validate -config good.conf -joinTokenFile nope",
        "unable to read join token file \"nope\": open nope: no such",
    ),
    fails("validate -config good.conf -logFile /nope/x", "open /nope/x: no such file or directory\n"),
    but(fails("validate -config good.conf -logLevel loud", "not a valid logrus Level: \"loud\""), MORE_WORDS),
    but(
        fails("validate -config good.conf -rebootstrapMode x", "unknown rebootstrap mode specified: x"),
        MORE_WORDS,
    ),
    // Variables in the file, only if asked for.
    but(
        fails(
            "validate -config expanded.conf",
            "could not parse trust_domain \"${TD}\": trust domain characters are",
        ),
        Real::Differs("finial adds the line"),
    ),
    valid("validate -config expanded.conf -expandEnv", &[("TD", "example.org"), ("D", "data")]),
    fails("validate -config expanded.conf -expandEnv", "trust_domain must be configured\n"),
    but(
        Row {
            environment: &[("TD", "$$"), ("D", "data")],
            ..fails("validate -config expanded.conf -expandEnv", "\"$$\"")
        },
        Real::Differs("finial adds the line"),
    ),
    valid("validate -config dollars.conf -expandEnv", &[]),
];

/// Lines that a shell asks to be completed.
pub(super) const COMPLETED: &[&str] = &[
    "spire-agent ",
    "spire-agent a",
    "spire-agent -",
    "spire-agent -h",
    "spire-agent -help ",
    "spire-agent api ",
    "spire-agent api fetch ",
    "spire-agent api fetch x",
    "spire-agent api validate ",
    "spire-agent debug ",
    "spire-agent logger s",
    "spire-agent nope api f",
    "spire-agent -x logger ",
    "spire-agent run ",
    "spire-agent run -",
    "spire-agent",
];

/// Files in the folder of the trial.
pub(super) const FILES: &[(&str, &str)] = &[
    (
        "good.conf",
        concat!(
            "agent { data_dir = \"data\" server_address = \"127.0.0.1\" server_port = 1 trust_domain = \"example.org\" ",
            "insecure_bootstrap = true }\nplugins { NodeAttestor \"join_token\" {} KeyManager \"memory\" {} ",
            "WorkloadAttestor \"unix\" {} }\n"
        ),
    ),
    (
        "expanded.conf",
        concat!(
            "agent { data_dir = \"$D\" server_address = \"127.0.0.1\" server_port = 1 trust_domain = \"${TD}\" ",
            "insecure_bootstrap = true }\nplugins { NodeAttestor \"join_token\" {} KeyManager \"memory\" {} ",
            "WorkloadAttestor \"unix\" {} }\n"
        ),
    ),
    (
        "dollars.conf",
        concat!(
            "agent { data_dir = \"$$\" server_address = \"127.0.0.1\" server_port = 1 trust_domain = \"example.org\" ",
            "insecure_bootstrap = true }\nplugins { NodeAttestor \"join_token\" {} KeyManager \"memory\" {} ",
            "WorkloadAttestor \"unix\" {} }\n"
        ),
    ),
];
