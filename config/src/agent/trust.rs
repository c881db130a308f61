//! Reads how the agent and the server come to trust each other: trust domain, re-bootstrap, join token.

use std::path::Path;
use std::time::Duration;

use super::{Agent, accept};
use crate::decode::Setting;
use crate::{JoinToken, RebootstrapMode};
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

const LONGEST_TRUST_DOMAIN: usize = 255;
const DEFAULT_REBOOTSTRAP_DELAY: Duration = Duration::from_mins(10);
