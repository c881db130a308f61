//! Reads the block `experimental { otlp { } }`, which is Finial's own. spire-agent ignores it.

use std::net::IpAddr;
use std::time::Duration;

use super::choice;
use crate::decode::{Section, Setting, Strictness, no_hint};
use crate::{Otlp, OtlpEndpoint, OtlpHeaders, OtlpProtocol, Warning, duration};

/// `None` if the block is absent, or unusable, which is reported.
pub(super) fn read(section: Section<'_>) -> Option<Otlp> {
    let protocol = choice(&section, "protocol", |name| match name {
        "grpc" => Ok(OtlpProtocol::Grpc),
        "http/protobuf" => Ok(OtlpProtocol::Http),
        _ => Err(format!("experimental.otlp.protocol is \"grpc\" or \"http/protobuf\", not {name:?}")),
    });
    let metrics = section.flag("metrics").is_none_or(|flag| flag.value);
    let logs = section.is_set("logs");
    let (interval, headers) = (interval(&section), headers(&section));
    let ca_file = section.text("ca_file").map(|path| path.value.into());
    let endpoint = endpoint(&section, protocol);
    let otlp =
        endpoint.map(|endpoint| Otlp { endpoint, protocol, metrics, logs, interval, headers, ca_file });
    if let Some(otlp) = &otlp {
        check(&section, otlp);
    }
    section.finish(Strictness::Refuse, "otlp", no_hint);
    otlp
}

/// Reports keys that contradict each other.
fn check(section: &Section<'_>, otlp: &Otlp) {
    if !otlp.metrics && !otlp.logs {
        let message =
            "experimental.otlp sends nothing: set metrics = true or logs = true, or remove the block";
        section.report().problem(section.line, message);
    }
    if otlp.endpoint.tls {
        return;
    }
    if otlp.ca_file.is_some() {
        let idle = "agent.experimental.otlp.ca_file does nothing: the endpoint is not https://";
        section.report().ignored(section.line, idle);
    }
    let address = otlp.endpoint.host.parse::<IpAddr>();
    let local = otlp.endpoint.host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    if !local && !otlp.headers.expose().is_empty() {
        let message = "experimental.otlp.headers are sent without encryption: write https:// in the endpoint";
        section.report().warn(Warning::from(message.to_owned()));
    }
}

fn endpoint(section: &Section<'_>, protocol: OtlpProtocol) -> Option<OtlpEndpoint> {
    let Some(Setting { value, line }) = section.text("endpoint") else {
        // One of the wrong kind is reported already.
        if section.is_present() && !section.has("endpoint") {
            let message = "experimental.otlp.endpoint must be configured: write \"http://host:4317\"";
            section.report().problem(section.line, message);
        }
        return None;
    };
    let reason = match parse(&value) {
        Ok(endpoint) if protocol == OtlpProtocol::Grpc && !endpoint.path.is_empty() => {
            "has a path, which gRPC does not use: remove it, or set protocol = \"http/protobuf\""
        }
        Ok(endpoint) => return Some(endpoint),
        Err(reason) => reason,
    };
    section.report().problem(line, format!("experimental.otlp.endpoint {reason}"));
    None
}

/// The error does not repeat the text, because people put passwords into URLs.
fn parse(text: &str) -> Result<OtlpEndpoint, &'static str> {
    let scheme = text.split_once("://").map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
    let (tls, rest) = match &scheme {
        Some((scheme, rest)) if scheme == "http" => (false, *rest),
        Some((scheme, rest)) if scheme == "https" => (true, *rest),
        _ => return Err("must begin with http:// or https://"),
    };
    if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("has a character that no URL has");
    }
    if rest.contains(['?', '#', '@']) {
        return Err("must be scheme, host, port and path alone: credentials belong into headers");
    }
    let (address, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let (host, port) = match address.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((host, after)) => (host, after.strip_prefix(':').or_else(|| after.is_empty().then_some(""))),
        None => address.rsplit_once(':').map_or((address, Some("")), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() || (host.contains(':') && !address.starts_with('[')) {
        return Err("must name a host: write \"http://host:4317\", and an IPv6 address in brackets");
    }
    let port = match port {
        Some("") => Some(if tls { 443 } else { 80 }),
        port => port.and_then(|port| port.parse().ok()).filter(|port| *port != 0),
    };
    let port = port.ok_or("must have a port from 1 to 65535")?;
    Ok(OtlpEndpoint { tls, host: host.to_owned(), port, path: path.trim_end_matches('/').to_owned() })
}

fn interval(section: &Section<'_>) -> Duration {
    let Some(Setting { value, line }) = section.text("interval") else { return DEFAULT_INTERVAL };
    let problem = match duration::parse(&value) {
        Ok(Duration::ZERO) => return DEFAULT_INTERVAL,
        Ok(interval) if interval >= SHORTEST_INTERVAL => return interval,
        Ok(_) => format!("experimental.otlp.interval must be at least 1s, not {value:?}"),
        Err(error) => format!("could not parse experimental.otlp.interval: {error}"),
    };
    section.report().problem(line, problem);
    DEFAULT_INTERVAL
}

/// Reads the headers, whose values are secrets: no message has one.
fn headers(section: &Section<'_>) -> OtlpHeaders {
    let mut headers = Vec::new();
    let block = section.block("headers");
    for (key, value) in block.entries() {
        let name = key.name.to_ascii_lowercase();
        let problem = match &value.kind {
            _ if !is_name(&name) => "is no name of a header",
            _ if is_ours(&name) => "is a header that the agent sets itself: remove it",
            crate::hcl::Kind::Text(text) if is_value(text) => {
                headers.retain(|(held, _)| *held != name);
                headers.push((name, text.clone()));
                continue;
            }
            crate::hcl::Kind::Text(_) => "must be one line of printable ASCII",
            _ => "must be a quoted string",
        };
        let message = format!("experimental.otlp.headers: {name:?} {problem}");
        section.report().problem(key.line, message);
    }
    OtlpHeaders::new(headers)
}

/// Whether this can be the name of a header of HTTP and of gRPC. In gRPC the values of names in `-bin` are not text.
fn is_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token) && !name.ends_with("-bin")
}

fn is_ours(name: &str) -> bool {
    let set = ["connection", "content-encoding", "content-length", "content-type", "host", "te"];
    let others = ["keep-alive", "proxy-connection", "trailer", "transfer-encoding", "upgrade", "user-agent"];
    set.contains(&name) || others.contains(&name) || name.starts_with("grpc-")
}

fn is_value(text: &str) -> bool {
    text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

/// As OpenTelemetry's libraries.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
