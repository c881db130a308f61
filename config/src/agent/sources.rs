//! Reads where the first bundle comes from: one of several sources, which exclude each other.

use identity::Url;

use super::{Agent, accept};
use crate::decode::Setting;
use crate::overrides;
use crate::{BundleFormat, BundleUrl, TrustBundleSource, WorkloadApi};

impl Agent<'_> {
    /// Reads the source. The conflicts between sources are checked in spire-agent's order and words.
    pub(super) fn trust_bundle(&self) -> Option<TrustBundleSource> {
        let format = self.bundle_format();
        let flags = self.overrides;
        let insecure = overrides::switch(&self.section, "insecure_bootstrap", flags.insecure_bootstrap);
        let path = self.text("trust_bundle_path", flags.trust_bundle_path.as_ref());
        let url = self.text("trust_bundle_url", flags.trust_bundle_url.as_ref());
        let workload_api = self.section.text("trust_bundle_spiffe_workload_api");
        let socket = self.section.text("trust_bundle_unix_socket");
        let sources = Sources {
            insecure: insecure.value,
            path: path.is_some(),
            url: url.is_some(),
            workload_api: workload_api.is_some(),
            unix_socket: socket.is_some(),
        };
        let conflicts = sources.conflicts();
        for message in &conflicts {
            self.problem(None, *message);
        }
        let workload_api = workload_api.and_then(|address| self.workload_api(&address));
        let url = url.and_then(|url| self.bundle_url(&url, socket.is_some()));
        if !conflicts.is_empty() {
            return None;
        }
        match (path, url, socket) {
            _ if insecure.value => Some(TrustBundleSource::Insecure),
            (Some(path), ..) => Some(TrustBundleSource::File { path: path.value.into(), format }),
            (_, Some(url), Some(socket)) => {
                Some(TrustBundleSource::UnixSocket { socket: socket.value.into(), url, format })
            }
            (_, Some(url), None) => Some(TrustBundleSource::Web { url, format }),
            (_, None, _) => workload_api.map(TrustBundleSource::WorkloadApi),
        }
    }

    fn workload_api(&self, text: &Setting<String>) -> Option<WorkloadApi> {
        let address = WorkloadApi::parse(&text.value);
        let refused = |reason: String| {
            let key = "trust_bundle_spiffe_workload_api";
            let message = format!("{key} is not a valid SPIFFE Workload API endpoint address: {reason}");
            self.problem(text.line, message);
        };
        address.map_err(refused).ok()
    }

    /// Reads the URL, of which no message shows a part that may be secret.
    fn bundle_url(&self, text: &Setting<String>, over_socket: bool) -> Option<BundleUrl> {
        let problem = |message| {
            self.problem(text.line, message);
            None
        };
        let Some(url) = Url::parse(&text.value) else {
            return problem("unable to parse trust bundle URL: it is not a URL");
        };
        match &*url.scheme {
            "http" if over_socket => {}
            _ if over_socket => {
                return problem(
                    "trust bundle URL must start with http:// when used with trust bundle unix socket",
                );
            }
            "https" => {}
            _ => return problem("trust bundle URL must start with https://"),
        }
        let has_key = |prefix: &[u8]| url.parameters().iter().any(|(key, _)| key.starts_with(prefix));
        if over_socket && has_key(b"spiffe-") {
            return problem("trust_bundle_url query params can not start with spiffe-");
        }
        if over_socket && has_key(b"spire-") {
            return problem("trust_bundle_url query params can not start with spire-");
        }
        BundleUrl::new(url)
            .or_else(|| problem("trust bundle URL must have a host, and its port must be from 1 to 65535"))
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
