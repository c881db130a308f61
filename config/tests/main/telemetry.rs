//! The block `telemetry { }`.

use config::{ListenerCertificate, Prometheus, PrometheusTls, Scrapers, Telemetry};

use crate::{assert_problems, sound, with_agent};

fn with_telemetry(keys: &str) -> String {
    format!("{}\ntelemetry {{ {keys} }}", with_agent(""))
}

#[track_caller]
fn telemetry(keys: &str) -> Telemetry {
    let settings = sound(&with_telemetry(keys));
    assert_eq!(settings.warnings, [], "{keys}");
    assert_eq!(settings.obstacles().count(), 0, "{keys}");
    settings.telemetry
}

fn listener(host: &str, port: u16, tls: Option<PrometheusTls>) -> Prometheus {
    Prometheus { host: host.to_owned(), port, tls }
}

#[test]
fn nothing_is_emitted_by_default() {
    let nothing = sound(&with_agent("")).telemetry;
    assert_eq!(nothing, telemetry(""));
    assert_eq!((&nothing.prometheus, nothing.in_mem), (&None, false));
    assert_eq!([nothing.statsd, nothing.dog_statsd], [Vec::<String>::new(), Vec::new()]);
    assert_eq!(nothing.metric_prefix, "spire_agent");
    assert_eq!((nothing.enable_trust_domain_label, nothing.enable_hostname_label), (false, true));
}

#[test]
fn sinks_in_all_their_forms() {
    assert_eq!(telemetry("Prometheus {}").prometheus, Some(listener("localhost", 0, None)));
    let remote = listener("0.0.0.0", 9988, None);
    assert_eq!(remote.address(), "0.0.0.0:9988");
    assert_eq!(telemetry("Prometheus { host = \"0.0.0.0\" port = 9988 }").prometheus, Some(remote.clone()));
    assert_eq!(telemetry("prometheus = [{ host = \"0.0.0.0\" port = \"9988\" }]").prometheus, Some(remote));
    assert_eq!(listener("::1", 1, None).address(), "[::1]:1");
    assert_eq!(listener("[::1]", 1, None).address(), "[::1]:1");
    let several =
        telemetry("DogStatsd = [{ address = \"a\" }, { address = \"b\" }] Statsd { address = \"c\" }");
    assert_eq!((several.dog_statsd, several.statsd), (vec!["a".into(), "b".into()], vec!["c".into()]));
    assert!(telemetry("InMem {}").in_mem);
}

#[test]
fn names_and_labels() {
    let named = telemetry(
        "MetricPrefix = \"mesh\" EnableTrustDomainLabel = true EnableHostnameLabel = false AllowedPrefixes = [\"a\"]
         BlockedPrefixes = [\"b\", \"c\"] AllowedLabels = [\"d\"] BlockedLabels = [\"e\"]",
    );
    assert_eq!(named.metric_prefix, "mesh");
    assert_eq!((named.enable_trust_domain_label, named.enable_hostname_label), (true, false));
    let lists = [named.allowed_prefixes, named.blocked_prefixes, named.allowed_labels, named.blocked_labels];
    assert_eq!(lists.map(|list| list.concat()), ["a", "bc", "d", "e"]);
}

#[test]
fn who_may_scrape() {
    let tls =
        |keys| telemetry(&format!("Prometheus {{ tls {{ {keys} }} }}")).prometheus.unwrap().tls.unwrap();
    let files = || ListenerCertificate::Files { certificate: "c".into(), key: "k".into() };
    let svid = || ListenerCertificate::AgentSvid;
    let monitor = || Scrapers::SpiffeIds(vec!["spiffe://td/monitor".into()]);
    let signed = || Scrapers::SignedBy("ca".into());
    for (keys, certificate, clients) in [
        ("cert_file = \"c\" key_file = \"k\"", files(), Scrapers::Anyone),
        ("cert_file = \"c\" key_file = \"k\" client_ca_file = \"ca\"", files(), signed()),
        (
            "cert_file = \"c\" key_file = \"k\" authorized_spiffe_ids = [\"spiffe://td/monitor\"]",
            files(),
            monitor(),
        ),
        ("use_spire_svid = true", svid(), Scrapers::Anyone),
        ("use_spire_svid = true authorized_spiffe_ids = [\"spiffe://td/monitor\"]", svid(), monitor()),
        ("use_spire_svid = true client_ca_file = \"ca\"", svid(), signed()),
    ] {
        assert_eq!(tls(keys), PrometheusTls { certificate, clients }, "{keys}");
    }
}

#[test]
fn what_contradicts_itself_keeps_the_agent_from_running() {
    for (keys, expected) in [
        (
            "tls {}",
            "cert_file and key_file must both be configured unless use_spire_svid is enabled (line 10)",
        ),
        (
            "tls { cert_file = \"c\" key_file = \"k\" use_spire_svid = true }",
            "cert_file and key_file cannot be configured when use_spire_svid is enabled (line 10)",
        ),
        (
            "tls { use_spire_svid = true authorized_spiffe_ids = [\"spiffe://a/b\"] client_ca_file = \"ca\" }",
            "client_ca_file cannot be configured with authorized_spiffe_ids (line 10)",
        ),
        (
            "tls { use_spire_svid = true authorized_spiffe_ids = [\"monitor\"] }",
            "invalid authorized SPIFFE ID \"monitor\": scheme is missing or invalid (line 10)",
        ),
        ("port = 99999", "telemetry.Prometheus.port: 99999 is no port: write a number up to 65535 (line 10)"),
    ] {
        let settings = sound(&with_telemetry(&format!("Prometheus {{ {keys} }}")));
        let found: Vec<_> = settings.obstacles().map(ToString::to_string).collect();
        let [found] = &found[..] else { panic!("{keys}: {found:?}") };
        assert!(found.ends_with(expected), "{keys}: {found}");
    }
    let settings = sound(&with_telemetry("M3 = [{ address = \"a\" env = \"b\" }]"));
    let found: Vec<_> = settings.obstacles().map(ToString::to_string).collect();
    assert!(matches!(&found[..], [one] if one.starts_with("not supported yet: telemetry.M3")), "{found:?}");
}

#[test]
fn wrong_keys_and_values() {
    let settings =
        sound(&with_telemetry("Prometheus { tls { cert_flie = \"x\" use_spire_svid = true } }\nx = 1"));
    let said: Vec<_> = settings.warnings.iter().map(|warning| warning.message.as_str()).collect();
    let tls = "Unknown key telemetry.Prometheus.tls.cert_flie is ignored; did you mean cert_file? (line 10)";
    assert_eq!(said, [tls, "Unknown key telemetry.x is ignored (line 11)"]);
    let wrong = "telemetry.Prometheus.port: write a whole number instead of a string that is none";
    assert_problems(&with_telemetry("Prometheus { port = \"x\" }"), &[wrong]);
}
