//! The commands `run` and `validate`, their flags, and the settings from these flags and the file.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use config::{Errors, JoinToken, Overrides, Settings};

use super::console;
use super::flags::{Flag, FlagSet, Values, integer, switch, text};
use crate::golang;

/// Runs the agent. Returns when it has ended.
pub(super) fn run(values: &Values) -> ExitCode {
    let settings = match load(values) {
        Ok(settings) => settings,
        Err(error) => {
            error.log();
            console::err(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let mut runs = true;
    for problem in settings.obstacles() {
        console::err(&problem.to_string());
        runs = false;
    }
    if !runs {
        return ExitCode::FAILURE;
    }
    crate::profiling::with_heap_profiles(&settings, config_path(values));
    crate::wiring::run(settings)
}

/// Runs `validate`, which loads the settings as `run` does. What spire-agent finds only when it runs, such as a plugin
/// that it does not have, is a note.
pub(super) fn validate(values: &Values) -> ExitCode {
    match load(values) {
        Ok(settings) => {
            for warning in &settings.warnings {
                crate::logging::line("warning", &warning.message, &warning.fields());
            }
            console::out("SPIRE agent configuration file is valid.");
            for problem in settings.obstacles() {
                console::err(&format!("note: the file is valid, but finial will not run with it: {problem}"));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            error.log();
            console::err(&invalid(&error));
            ExitCode::FAILURE
        }
    }
}

/// The text of `validate` for a file or flags that cannot be used.
pub(super) fn invalid(error: &dyn fmt::Display) -> String {
    format!("SPIRE agent configuration file is invalid: {error}")
}

/// Why the settings cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("could not find config file {}: please use the -config flag", path.display())]
    Missing { path: PathBuf },
    #[error("unable to read configuration at {path:?}: {} {}: {}", step(source), path.display(), golang::os_error(source))]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("open {}: {}", path.display(), golang::os_error(source))]
    LogFile { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Invalid(#[from] Errors),
}

/// The system call that failed. Go's errors name it.
fn step(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::IsADirectory | io::ErrorKind::InvalidData => "read",
        _ => "open",
    }
}

impl LoadError {
    /// Logs unknown keys, which are also errors.
    fn log(&self) {
        let Self::Invalid(errors) = self else { return };
        for unknown in &errors.unknown {
            let fields = [("section", unknown.section.clone()), ("keys", unknown.keys())];
            crate::logging::line("error", "Unknown configuration detected", &fields);
        }
    }
}

fn load(values: &Values) -> Result<Settings, LoadError> {
    let settings = settings(values)?;
    try_log_file(settings.log_file.as_deref())?;
    Ok(settings)
}

/// The settings from the flags and the file. Nothing but files that the flags and the configuration name is read.
///
/// # Errors
/// [`LoadError`].
pub(super) fn settings(values: &Values) -> Result<Settings, LoadError> {
    let path = config_path(values);
    let text = fs::read_to_string(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => {
            LoadError::Missing { path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()) }
        }
        _ => LoadError::Unreadable { path: path.to_owned(), source },
    })?;
    let text = if values.switch("expandEnv") {
        config::expand_env(&text, |name| std::env::var(name).ok())
    } else {
        text
    };
    Ok(Settings::load(&text, &overrides(values), &read_named)?)
}

fn config_path(values: &Values) -> &Path {
    let given = Path::new(values.text("config"));
    if given.as_os_str().is_empty() { Path::new(DEFAULT_CONFIG) } else { given }
}

/// Reads a file that the configuration names.
fn read_named(path: &Path) -> io::Result<String> {
    // Moved out of its zeroizing wrapper, because `config` needs a plain `String`.
    let text = attestors::file::read_text(path, NAMED_BYTES).map(|mut text| std::mem::take(&mut *text));
    text.map_err(|reason| {
        let step = reason.raw_os_error().map_or("", |_| step(&reason));
        let words = format!("{step} {}: {}", path.display(), golang::os_error(&reason));
        io::Error::new(reason.kind(), words.trim_start().to_owned())
    })
}

fn overrides(values: &Values) -> Overrides {
    let text = |name| values.given_text(name);
    let switch = |name| values.given_switch(name);
    Overrides {
        data_dir: text("dataDir"),
        join_token: text("joinToken").filter(|token| !token.is_empty()).map(JoinToken::new),
        join_token_file: text("joinTokenFile"),
        log_file: text("logFile"),
        log_format: text("logFormat"),
        log_level: text("logLevel"),
        log_source_location: switch("logSourceLocation"),
        server_address: text("serverAddress"),
        server_port: values.integer("serverPort"),
        trust_domain: text("trustDomain"),
        disable_workload_api: switch("disableWorkloadAPI"),
        disable_sds_api: switch("disableSDSAPI"),
        trust_bundle_path: text("trustBundle"),
        trust_bundle_url: text("trustBundleUrl"),
        trust_bundle_format: text("trustBundleFormat"),
        allow_unauthenticated_verifiers: switch("allowUnauthenticatedVerifiers"),
        insecure_bootstrap: switch("insecureBootstrap"),
        rebootstrap_mode: text("rebootstrapMode"),
        rebootstrap_delay: text("rebootstrapDelay"),
        socket_path: text("socketPath"),
    }
}

/// Checks that the log file can be opened, as `run` will do.
fn try_log_file(path: Option<&Path>) -> Result<(), LoadError> {
    let Some(path) = path else { return Ok(()) };
    crate::logging::open(path)
        .map(drop)
        .map_err(|source| LoadError::LogFile { path: path.to_owned(), source })
}

/// The flags of `run`.
pub(super) const RUN_FLAGS: FlagSet = FlagSet { name: "run", flags: FLAGS };
/// The flags of `validate`: those of `run`.
pub(super) const VALIDATE_FLAGS: FlagSet = FlagSet { name: "validate", flags: FLAGS };

/// The flags of `run`, `validate` and `check`.
pub(super) const FLAGS: &[Flag] = &[
    switch(
        "allowUnauthenticatedVerifiers",
        "If true, the agent permits the retrieval of X509 certificate bundles by unregistered clients",
    ),
    text("config", DEFAULT_CONFIG, "Path to a SPIRE config file"),
    text("dataDir", "", "A directory the agent can use for its runtime data"),
    switch("disableSDSAPI", "Disable the Envoy SDS API"),
    switch("disableWorkloadAPI", "Disable the SPIFFE Workload API"),
    switch("expandEnv", "Expand environment variables in SPIRE config file"),
    switch("insecureBootstrap", "If true, the agent bootstraps without verifying the server's identity"),
    text("joinToken", "", "An optional token which has been generated by the SPIRE server"),
    text(
        "joinTokenFile",
        "",
        "Path to a file containing an optional join token which has been generated by the SPIRE server",
    ),
    text("logFile", "", "File to write logs to"),
    text("logFormat", "", "'text' or 'json'"),
    text("logLevel", "", "'debug', 'info', 'warn', or 'error'"),
    switch("logSourceLocation", "Include source file, line number and function name in log lines"),
    text(
        "rebootstrapDelay",
        "",
        "The time to delay after seeing a x509 cert mismatch from the server before rebootstrapping",
    ),
    text("rebootstrapMode", "", "Can be one of 'never', 'auto', or 'always'"),
    text("serverAddress", "", "IP address or DNS name of the SPIRE server"),
    integer("serverPort", "Port number of the SPIRE server"),
    text("socketPath", "", "Path to bind the SPIRE Agent API socket to"),
    text("trustBundle", "", "Path to the SPIRE server CA bundle"),
    text("trustBundleFormat", "", "Format of the bootstrap trust bundle, \"pem\" or \"spiffe\""),
    text("trustBundleUrl", "", "URL to download the SPIRE server CA bundle"),
    text("trustDomain", "", "The trust domain that this agent belongs to"),
];
const DEFAULT_CONFIG: &str = "conf/agent/agent.conf";
/// The largest join token file and plugin data file, in bytes. Real ones have some hundred bytes.
const NAMED_BYTES: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn values(words: &[&str]) -> Values {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        RUN_FLAGS.parse(&words).unwrap()
    }

    #[test]
    fn every_flag_reaches_its_place() {
        let texts = [
            "dataDir",
            "joinTokenFile",
            "logFile",
            "logFormat",
            "logLevel",
            "serverAddress",
            "trustDomain",
            "trustBundle",
            "trustBundleUrl",
            "trustBundleFormat",
            "rebootstrapMode",
            "rebootstrapDelay",
            "socketPath",
            "joinToken",
        ];
        let switches = [
            "logSourceLocation",
            "disableWorkloadAPI",
            "disableSDSAPI",
            "allowUnauthenticatedVerifiers",
            "insecureBootstrap",
        ];
        let mut words: Vec<String> = texts.iter().map(|name| format!("-{name}={name}")).collect();
        words.extend(switches.iter().map(|name| format!("-{name}")));
        words.push("-serverPort=7".to_owned());
        let overrides = overrides(&RUN_FLAGS.parse(&words).unwrap());
        let shown = format!("{overrides:?}");
        assert!(!shown.contains("None") && !shown.contains("Some(false)"), "{shown}");
        assert_eq!(overrides.trust_bundle_path.as_deref(), Some("trustBundle"));
        assert_eq!(overrides.socket_path.as_deref(), Some("socketPath"));
        assert_eq!(overrides.join_token.unwrap().expose(), "joinToken");
        assert_eq!(texts.len() + switches.len() + 3, FLAGS.len(), "and -serverPort, -config, -expandEnv");
    }

    #[test]
    fn a_missing_file_is_named_by_its_whole_path() {
        let error = load(&values(&["-config", "/nope/agent.conf"])).unwrap_err();
        let expected = "could not find config file /nope/agent.conf: please use the -config flag";
        assert_eq!(error.to_string(), expected);
        let error = load(&values(&["-config="])).unwrap_err().to_string();
        assert!(error.contains("/conf/agent/agent.conf: please"), "{error}");
        let error = load(&values(&["-config", "/"])).unwrap_err().to_string();
        assert_eq!(error, "unable to read configuration at \"/\": read /: is a directory");
    }

    #[test]
    fn a_fifo_that_the_configuration_names_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let conf = folder.path().join("agent.conf");
        let text = "agent { data_dir = \"/d\" server_address = \"s\" server_port = \"1\" trust_domain = \"t\" \
                    insecure_bootstrap = true }\nplugins { NodeAttestor \"join_token\" { plugin_data {} } \
                    KeyManager \"memory\" { plugin_data {} } \
                    WorkloadAttestor \"unix\" { plugin_data_file = \"FIFO\" } }\n";
        fs::write(&conf, text.replace("FIFO", &fifo.display().to_string())).unwrap();
        let (conf, fifo) = (conf.display().to_string(), fifo.display().to_string());
        let error = load(&values(&["-config", &conf, "-joinTokenFile", &fifo])).unwrap_err().to_string();
        assert!(error.contains("unable to read join token file") && error.contains("(a FIFO?)"), "{error}");
        let settings = load(&values(&["-config", &conf])).unwrap();
        let problems = format!("{:?}", settings.plugin_problems());
        assert!(problems.contains("(a FIFO?)"), "{problems}");
    }

    #[test]
    fn the_file_of_a_join_token_is_read_or_named() {
        let folder = tempfile::tempdir().unwrap();
        let (conf, token) = (folder.path().join("agent.conf"), folder.path().join("token"));
        let text = "agent { server_address = \"s\" server_port = \"1\" trust_domain = \"t\" insecure_bootstrap = true }\n\
                    plugins { }\n";
        fs::write(&conf, text).unwrap();
        let conf = conf.display().to_string();
        let load =
            |path: &Path| load(&values(&["-config", &conf, "-joinTokenFile", &path.display().to_string()]));
        for (content, expected) in [
            (&b"abc\r\n"[..], Some("abc")),
            (b"\xef\xbb\xbfabc", Some("\u{feff}abc")),
            (b"\xff", None),
            (b" \r\n", None),
        ] {
            fs::write(&token, content).unwrap();
            let loaded = load(&token).ok().and_then(|settings| settings.join_token);
            assert_eq!(loaded.as_ref().map(JoinToken::expose), expected, "{content:?}");
        }
        let named =
            |path: &Path| format!("unable to read join token file {:?}: ", path.display().to_string());
        for path in [folder.path(), &folder.path().join("absent")] {
            let error = load(path).unwrap_err().to_string();
            assert!(error.starts_with(&named(path)), "{error}");
        }
        let with_token = ["-config", &conf, "-joinToken=x", &format!("-joinTokenFile={}", token.display())];
        let error = super::load(&values(&with_token)).unwrap_err().to_string();
        assert_eq!(error, "only one of join_token or join_token_file can be specified, not both");
    }

    #[test]
    fn flags_are_sorted_for_the_usage() {
        let usage = RUN_FLAGS.usage();
        let names: Vec<&str> = usage.lines().filter_map(|line| line.strip_prefix("  -")).collect();
        assert!(names.is_sorted(), "{names:?}");
    }
}
