//! Where the first bundle and the join token come from.

use config::{BundleFormat, JoinToken, Overrides, TrustBundleSource, WorkloadApi};

use crate::{assert_problems, load_with, sound, with_agent};

/// A file with these keys, and no source of the first bundle but them.
fn with_source(keys: &str) -> String {
    with_agent(keys).replace("trust_bundle_path = \"b.pem\"", "")
}

#[test]
fn sources_of_the_first_bundle_exclude_each_other() {
    let (insecure, path) = ("insecure_bootstrap = true\n", "trust_bundle_path = \"b\"\n");
    let url = "trust_bundle_url = \"https://host/b\"\n";
    let api = "trust_bundle_spiffe_workload_api = \"unix:///a\"\n";
    let socket = "trust_bundle_unix_socket = \"/s\"\n";
    for (keys, expected) in [
        (
            vec![],
            vec![
                "trust_bundle_path, trust_bundle_url, or trust_bundle_spiffe_workload_api must be configured unless insecure_bootstrap is set",
            ],
        ),
        (
            vec![insecure, path],
            vec!["only one of insecure_bootstrap or trust_bundle_path can be specified, not both"],
        ),
        (
            vec![insecure, url],
            vec!["only one of insecure_bootstrap or trust_bundle_url can be specified, not both"],
        ),
        (
            vec![insecure, url, path],
            vec![
                "only one of insecure_bootstrap, trust_bundle_url, or trust_bundle_path can be specified, not the three options",
            ],
        ),
        (
            vec![url, path],
            vec!["only one of trust_bundle_url or trust_bundle_path can be specified, not both"],
        ),
        (
            vec![api, insecure],
            vec![
                "only one of insecure_bootstrap or trust_bundle_spiffe_workload_api can be specified, not both",
            ],
        ),
        (
            vec![api, url],
            vec![
                "only one of trust_bundle_url or trust_bundle_spiffe_workload_api can be specified, not both",
            ],
        ),
        (
            vec![api, path],
            vec![
                "only one of trust_bundle_path or trust_bundle_spiffe_workload_api can be specified, not both",
            ],
        ),
        (
            vec![api, socket],
            vec![
                "trust_bundle_unix_socket can not be used with trust_bundle_spiffe_workload_api",
                "if trust_bundle_unix_socket is specified, so must be trust_bundle_url",
            ],
        ),
        (vec![path, socket], vec!["if trust_bundle_unix_socket is specified, so must be trust_bundle_url"]),
        (
            vec![insecure, "rebootstrap_mode = \"auto\""],
            vec!["insecure_bootstrap option can not be used with rebootstrapping (line 4)"],
        ),
    ] {
        assert_problems(&with_source(&keys.concat()), &expected);
    }
}

#[test]
fn a_url_is_https_or_http_over_a_socket() {
    let (https, http) =
        ("trust bundle URL must start with https://", "trust bundle URL must start with http:// when");
    let over_socket = |url: &str| format!("trust_bundle_unix_socket = \"/s\"\ntrust_bundle_url = \"{url}\"");
    let plain = |url: &str| format!("\ntrust_bundle_url = \"{url}\"");
    for (keys, expected) in [
        (plain("http://host/"), https),
        (plain("host"), https),
        (plain("https://host/%zz"), "unable to parse trust bundle URL: "),
        (plain("https:///b"), "trust bundle URL must have a host"),
        (plain("https:b"), "trust bundle URL must have a host"),
        (
            plain("https://host:70000/"),
            "trust bundle URL must have a host, and its port must be from 1 to 65535",
        ),
        (over_socket("https://host/"), http),
        (
            over_socket("http://host/?a=b&spire-x=1"),
            "trust_bundle_url query params can not start with spire-",
        ),
        (over_socket("http://host/?spiffe%2dx"), "trust_bundle_url query params can not start with spiffe-"),
    ] {
        let text = with_source(&keys);
        assert_problems(&text, &[expected]);
        assert!(crate::problems(&text)[0].ends_with("(line 4)"), "{text}");
    }
    let source = |keys: &str| sound(&with_source(keys)).trust_bundle;
    let web = source(
        "trust_bundle_url = \"HTTPS://me:secret@host:1/b?token=secret&spire-x=1\" trust_bundle_format = \"spiffe\"",
    );
    assert!(!format!("{web:?}").contains("secret"), "{web:?}");
    let TrustBundleSource::Web { url, format: BundleFormat::Spiffe } = web else { panic!("{web:?}") };
    assert_eq!(
        (url.to_string(), &*url.expose().query),
        ("https://host:1/b".into(), "token=secret&spire-x=1")
    );
    let socket = source(&over_socket("http://host/b?Spire-x=1"));
    let TrustBundleSource::UnixSocket { socket, url, format: BundleFormat::Pem } = socket else {
        panic!("{socket:?}")
    };
    assert_eq!((socket, url.to_string()), ("/s".into(), "http://host/b".into()));
}

#[test]
fn the_address_of_a_workload_api_is_that_of_go_spiffe() {
    let with = |address: &str| with_source(&format!("trust_bundle_spiffe_workload_api = \"{address}\""));
    for (address, expected) in [
        ("unix:///run/a.sock", WorkloadApi::Unix("/run/a.sock".into())),
        ("unix:///run/a%20b", WorkloadApi::Unix("/run/a b".into())),
        ("tcp://127.0.0.1:8000", WorkloadApi::Tcp(([127, 0, 0, 1], 8000).into())),
        ("tcp://[::1]:8000", WorkloadApi::Tcp(("::1".parse::<std::net::IpAddr>().unwrap(), 8000).into())),
    ] {
        assert_eq!(sound(&with(address)).trust_bundle, TrustBundleSource::WorkloadApi(expected), "{address}");
    }
    for (address, expected) in [
        ("http://host", "workload endpoint socket URI must have a \"tcp\" or \"unix\" scheme"),
        ("/run/a.sock", "workload endpoint socket URI must have a \"tcp\" or \"unix\" scheme"),
        ("unix://%zz", "workload endpoint socket is not a valid URI"),
        ("unix:a.sock", "workload endpoint unix socket URI must not be opaque"),
        ("unix://me@/a", "workload endpoint unix socket URI must not include user info"),
        ("unix://", "workload endpoint unix socket URI must include a path"),
        ("unix:///a?b", "workload endpoint unix socket URI must not include query values"),
        ("unix:///a#b", "workload endpoint unix socket URI must not include a fragment"),
        ("unix://a/b", "workload endpoint unix socket URI must not include a host"),
        ("tcp:127.0.0.1:1", "workload endpoint tcp socket URI must not be opaque"),
        ("tcp://me@127.0.0.1:1", "workload endpoint tcp socket URI must not include user info"),
        ("tcp:///a", "workload endpoint tcp socket URI must include a host"),
        ("tcp://127.0.0.1:1/", "workload endpoint tcp socket URI must not include a path"),
        ("tcp://127.0.0.1:1?a", "workload endpoint tcp socket URI must not include query values"),
        ("tcp://127.0.0.1:1#a", "workload endpoint tcp socket URI must not include a fragment"),
        ("tcp://host:1", "workload endpoint tcp socket URI host component must be an IP:port"),
        ("tcp://127.0.0.1", "workload endpoint tcp socket URI host component must include a port"),
    ] {
        let key = "trust_bundle_spiffe_workload_api is not a valid SPIFFE Workload API endpoint address";
        assert_problems(&with(address), &[&format!("{key}: {expected}")]);
    }
}

#[test]
fn flags_name_sources_too() {
    let text = with_source("");
    let load = |flags: &Overrides| load_with(&text, flags, &[]).unwrap().trust_bundle;
    let url = Overrides {
        trust_bundle_url: Some("https://host/b".into()),
        trust_bundle_format: Some("spiffe".into()),
        ..Overrides::default()
    };
    assert!(matches!(load(&url), TrustBundleSource::Web { format: BundleFormat::Spiffe, .. }));
    let path = Overrides { trust_bundle_path: Some("b".into()), ..Overrides::default() };
    assert!(matches!(load(&path), TrustBundleSource::File { .. }));
    let insecure = Overrides { insecure_bootstrap: Some(true), ..Overrides::default() };
    assert_eq!(load(&insecure), TrustBundleSource::Insecure);
}

/// Go trims by `strings.TrimSpace`: white space of Unicode, to which a byte order mark does not belong.
#[test]
fn the_file_of_a_join_token_is_trimmed_as_by_go() {
    let text = with_agent("join_token_file = \"token\"");
    let load = |content: &str| load_with(&text, &Overrides::default(), &[("token", content)]);
    for (content, expected) in [
        ("abc", "abc"),
        ("abc\n", "abc"),
        ("abc\r\n", "abc"),
        ("\t abc \u{b}\u{c}\u{a0}\u{85}\u{2003}\u{3000}\n\n", "abc"),
        ("a b\nc", "a b\nc"),
        ("\u{feff}abc", "\u{feff}abc"),
        ("abc\u{200b}", "abc\u{200b}"),
        ("abc\0", "abc\0"),
    ] {
        let token = load(content).unwrap().join_token;
        assert_eq!(token.as_ref().map(JoinToken::expose), Some(expected), "{content:?}");
    }
    for content in ["", "\n", " \t\r\n\u{3000}"] {
        let problems = load(content).unwrap_err().problems;
        assert_eq!(problems[0].to_string(), "join token file is empty (line 3)", "{content:?}");
    }
    assert_problems(&text, &["unable to read join token file \"token\": "]);
    let both = with_agent("join_token = \"a\"\njoin_token_file = \"token\"");
    assert_problems(
        &both,
        &["only one of join_token or join_token_file can be specified, not both (line 4)"],
    );
    // A flag beside the key of the other name is a conflict as well, as in spire-agent.
    let flag = Overrides { join_token: Some(JoinToken::new("a".into())), ..Overrides::default() };
    assert!(load_with(&text, &flag, &[("token", "b")]).is_err());
}
