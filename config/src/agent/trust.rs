//! Reads how the agent and the server come to trust each other: trust domain, bootstrap bundle, join token.

use std::path::Path;
use std::time::Duration;

use super::{Agent, accept};
use crate::decode::Setting;
use crate::{BundleFormat, JoinToken, RebootstrapMode, TrustBundleSource};
use crate::{duration, overrides, trust_domain};

impl Agent<'_> {
    pub(super) fn trust_domain(&self) -> Option<String> {
        let Some(text) = self.text("trust_domain", self.overrides.trust_domain.as_ref()) else {
            self.problem(None, "trust_domain must be configured");
            return None;
        };
        let name = match trust_domain::parse(&text.value) {
            Ok(name) => name.to_owned(),
            Err(error) => {
                self.problem(text.line, format!("could not parse trust_domain {:?}: {error}", text.value));
                return None;
            }
        };
        // spire-agent only warns, but no SPIFFE ID with such a name is valid (SPIFFE-ID §2.1).
        if name.len() > LONGEST_TRUST_DOMAIN {
            let message = format!(
                "trust_domain has {} characters: a name of at most {LONGEST_TRUST_DOMAIN} is needed for valid SPIFFE IDs",
                name.len()
            );
            self.problem(text.line, message);
            return None;
        }
        Some(name)
    }

    /// Reads where the first bundle comes from. Finial has only two of spire-agent's sources, the file and
    /// `insecure_bootstrap`, but checks the conflicts of all sources, so that spire-agent's messages come first.
    pub(super) fn trust_bundle(&self) -> Option<TrustBundleSource> {
        let format = self.bundle_format();
        let flags = self.overrides;
        let insecure = overrides::switch(&self.section, "insecure_bootstrap", flags.insecure_bootstrap);
        let path = self.text("trust_bundle_path", flags.trust_bundle_path.as_ref());
        let url = self.text("trust_bundle_url", flags.trust_bundle_url.as_ref());
        let workload_api = self.section.text("trust_bundle_spiffe_workload_api");
        let unix_socket = self.section.text("trust_bundle_unix_socket");
        let sources = Sources {
            insecure: insecure.value,
            path: path.is_some(),
            url: url.is_some(),
            workload_api: workload_api.is_some(),
            unix_socket: unix_socket.is_some(),
        };
        for message in sources.conflicts() {
            self.problem(None, message);
        }
        let unbuilt = [
            ("trust_bundle_url", &url),
            ("trust_bundle_spiffe_workload_api", &workload_api),
            ("trust_bundle_unix_socket", &unix_socket),
        ];
        for (key, source) in unbuilt {
            if let Some(source) = source {
                self.section.report().not_supported(source.line, &self.section.name(key));
            }
        }
        match path {
            _ if insecure.value => Some(TrustBundleSource::Insecure),
            path => path.map(|path| TrustBundleSource::File { path: path.value.into(), format }),
        }
    }

    fn bundle_format(&self) -> BundleFormat {
        let format = self.text("trust_bundle_format", self.overrides.trust_bundle_format.as_ref());
        format.map_or_else(BundleFormat::default, |text| {
            accept(&self.section, &text, |name| match name {
                "pem" => Ok(BundleFormat::Pem),
                "spiffe" => Ok(BundleFormat::Spiffe),
                _ => Err("invalid value for trust_bundle_format, expected \"pem\" or \"spiffe\""),
            })
        })
    }

    pub(super) fn rebootstrap_mode(&self) -> RebootstrapMode {
        let mode = self.text("rebootstrap_mode", self.overrides.rebootstrap_mode.as_ref());
        let Some(text) = mode else { return RebootstrapMode::default() };
        let mode = accept(&self.section, &text, |name| match name {
            "never" => Ok(RebootstrapMode::Never),
            "auto" => Ok(RebootstrapMode::Auto),
            "always" => Ok(RebootstrapMode::Always),
            _ => Err(format!("unknown rebootstrap mode specified: {name}; write never, auto or always")),
        });
        let flag = self.overrides.insecure_bootstrap;
        let insecure = overrides::switch(&self.section, "insecure_bootstrap", flag).value;
        if mode != RebootstrapMode::Never && insecure {
            self.problem(text.line, "insecure_bootstrap option can not be used with rebootstrapping");
        }
        mode
    }

    pub(super) fn rebootstrap_delay(&self) -> Duration {
        let delay = self.text("rebootstrap_delay", self.overrides.rebootstrap_delay.as_ref());
        let Some(Setting { value, line }) = delay else { return DEFAULT_REBOOTSTRAP_DELAY };
        duration::parse(&value).unwrap_or_else(|error| {
            self.problem(line, format!("error parsing rebootstrap delay duration: {error}"));
            DEFAULT_REBOOTSTRAP_DELAY
        })
    }

    pub(super) fn join_token(&self) -> Option<JoinToken> {
        let in_file = self.section.text("join_token").map(|token| JoinToken::new(token.value));
        let flag = self.overrides.join_token.clone().filter(|token| !token.expose().is_empty());
        let token = flag.or(in_file);
        let file = self.text("join_token_file", self.overrides.join_token_file.as_ref());
        match (token, file) {
            (Some(_), Some(file)) => {
                let message = "only one of join_token or join_token_file can be specified, not both";
                self.problem(file.line, message);
                None
            }
            (token, None) => token,
            (None, Some(file)) => self.read_join_token(&file),
        }
    }

    fn read_join_token(&self, file: &Setting<String>) -> Option<JoinToken> {
        match (self.read_file)(Path::new(&file.value)) {
            Ok(text) if text.trim().is_empty() => {
                self.problem(file.line, "join token file is empty");
                None
            }
            Ok(text) => Some(JoinToken::new(text.trim().to_owned())),
            Err(error) => {
                let message = format!("unable to read join token file {:?}: {error}", file.value);
                self.problem(file.line, message);
                None
            }
        }
    }
}

/// Which sources of the first bundle are configured.
struct Sources {
    insecure: bool,
    path: bool,
    url: bool,
    workload_api: bool,
    unix_socket: bool,
}

impl Sources {
    /// The conflicts between sources, in spire-agent's words.
    fn conflicts(&self) -> Vec<&'static str> {
        let Self { insecure, path, url, workload_api, unix_socket } = *self;
        let three = insecure && url && path;
        let rules = [
            (
                workload_api && insecure,
                "only one of insecure_bootstrap or trust_bundle_spiffe_workload_api can be specified, not both",
            ),
            (
                workload_api && url,
                "only one of trust_bundle_url or trust_bundle_spiffe_workload_api can be specified, not both",
            ),
            (
                workload_api && path,
                "only one of trust_bundle_path or trust_bundle_spiffe_workload_api can be specified, not both",
            ),
            (
                workload_api && unix_socket,
                "trust_bundle_unix_socket can not be used with trust_bundle_spiffe_workload_api",
            ),
            (
                three,
                "only one of insecure_bootstrap, trust_bundle_url, or trust_bundle_path can be specified, \
                 not the three options",
            ),
            (
                insecure && url && !three,
                "only one of insecure_bootstrap or trust_bundle_url can be specified, not both",
            ),
            (
                insecure && path && !three,
                "only one of insecure_bootstrap or trust_bundle_path can be specified, not both",
            ),
            (
                !insecure && url && path,
                "only one of trust_bundle_url or trust_bundle_path can be specified, not both",
            ),
            (
                !(insecure || path || url || workload_api),
                "trust_bundle_path, trust_bundle_url, or trust_bundle_spiffe_workload_api must be configured \
                 unless insecure_bootstrap is set",
            ),
            (unix_socket && !url, "if trust_bundle_unix_socket is specified, so must be trust_bundle_url"),
        ];
        rules.into_iter().filter(|(broken, _)| *broken).map(|(_, message)| message).collect()
    }
}

const LONGEST_TRUST_DOMAIN: usize = 255;
const DEFAULT_REBOOTSTRAP_DELAY: Duration = Duration::from_mins(10);
