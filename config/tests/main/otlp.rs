//! The block `experimental { otlp { } }`.

use std::time::Duration;

use config::{Otlp, OtlpEndpoint, OtlpProtocol};

use crate::{assert_problems, load, sound, with_agent};

fn with_otlp(keys: &str) -> String {
    with_agent(&format!("experimental {{ otlp {{\n{keys}\n}} }}"))
}

fn otlp(keys: &str) -> Otlp {
    sound(&with_otlp(keys)).experimental.otlp.expect("the block is there")
}

#[test]
fn an_endpoint_suffices() {
    assert_eq!(sound(&with_agent("")).experimental.otlp, None);
    let plain = otlp("endpoint = \"http://collector:4317\"");
    let endpoint = OtlpEndpoint { tls: false, host: "collector".into(), port: 4317, path: String::new() };
    assert_eq!((plain.endpoint, plain.protocol), (endpoint, OtlpProtocol::Grpc));
    assert!(plain.metrics && !plain.logs && plain.headers.expose().is_empty() && plain.ca_file.is_none());
    assert_eq!(plain.interval, Duration::from_secs(60));
}

#[test]
fn endpoints_are_urls() {
    for (url, told, port) in [
        ("http://collector", "http://collector:80", 80),
        ("HTTPS://otlp.example.org/", "https://otlp.example.org:443", 443),
        ("http://[::1]:4318", "http://[::1]:4318", 4318),
        ("https://[::1]/otlp/", "https://[::1]:443/otlp", 443),
    ] {
        let endpoint = otlp(&format!("protocol = \"http/protobuf\" endpoint = \"{url}\"")).endpoint;
        assert_eq!((endpoint.to_string().as_str(), endpoint.port), (told, port), "{url}");
    }
}

#[test]
fn what_cannot_work_is_refused() {
    let prefixed = "endpoint = \"http://c:1\" ";
    for (keys, expected) in [
        ("", "experimental.otlp.endpoint must be configured: write \"http://host:4317\""),
        ("endpoint = 1", "experimental.otlp.endpoint must begin with http:// or https://"),
        ("endpoint = \"collector:4317\"", "experimental.otlp.endpoint must begin with http:// or https://"),
        ("endpoint = \"http://:1\"", "experimental.otlp.endpoint must name a host"),
        ("endpoint = \"http://::1:1\"", "experimental.otlp.endpoint must name a host"),
        ("endpoint = \"http://c:0\"", "experimental.otlp.endpoint must have a port from 1 to 65535"),
        ("endpoint = \"http://c:x\"", "experimental.otlp.endpoint must have a port from 1 to 65535"),
        ("endpoint = \"http://[::1]x\"", "experimental.otlp.endpoint must have a port from 1 to 65535"),
        ("endpoint = \"http://c d\"", "experimental.otlp.endpoint has a character that no URL has"),
        (
            "endpoint = \"http://user:word@c\"",
            "experimental.otlp.endpoint must be scheme, host, port and path alone: credentials belong into",
        ),
        ("endpoint = \"http://c:1/path\"", "experimental.otlp.endpoint has a path, which gRPC does not use"),
        ("protocol = \"http/json\"", "experimental.otlp.protocol is \"grpc\" or \"http/protobuf\", not"),
        ("interval = \"999ms\"", "experimental.otlp.interval must be at least 1s, not \"999ms\""),
        ("interval = \"x\"", "could not parse experimental.otlp.interval: time: invalid"),
        ("metrics = false", "experimental.otlp sends nothing: set metrics = true or logs = true"),
        ("headers { \"a b\" = \"x\" }", "experimental.otlp.headers: \"a b\" is no name of a header"),
        ("headers { Host = \"x\" }", "experimental.otlp.headers: \"host\" is a header that the agent sets"),
        ("headers { key = \"a\\nb\" }", "experimental.otlp.headers: \"key\" must be one line of printable"),
        ("headers { key = [\"a\"] }", "experimental.otlp.headers: \"key\" must be a quoted string"),
    ] {
        let keys = if keys.contains("endpoint") || keys.is_empty() {
            keys.to_owned()
        } else {
            format!("{prefixed}{keys}")
        };
        assert_problems(&with_otlp(&keys), &[expected]);
    }
    assert_problems(&with_otlp("logs = true"), &["experimental.otlp.endpoint must be configured"]);
    let errors = load(&with_otlp("endpoint = \"http://c:1\" end_point = 1")).expect_err("an unknown key");
    assert_eq!(errors.unknown[0].section, "otlp");
}

#[test]
fn headers_are_secrets() {
    for keys in [
        "headers { Authorization = \"Bearer s3cr3t\" }",
        "headers = { \"authorization\" = \"Bearer s3cr3t\" }",
    ] {
        let settings = sound(&with_otlp(&format!("endpoint = \"http://c:1\" {keys}")));
        assert!(!format!("{settings:?}").contains("s3cr3t"));
        let headers = settings.experimental.otlp.expect("there").headers;
        let exposed: Vec<_> = headers.expose().iter().map(|(name, value)| (&**name, &***value)).collect();
        assert_eq!(exposed, [("authorization", "Bearer s3cr3t")]);
        let warned = |warning: &&config::Warning| warning.message.contains("without encryption");
        assert_eq!(settings.warnings.iter().filter(warned).count(), 1);
    }
    let local = sound(&with_otlp("endpoint = \"http://127.0.0.1:1\" headers { a = \"b\" }"));
    assert_eq!(local.warnings, []);
}
