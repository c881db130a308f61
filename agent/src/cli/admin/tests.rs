use proto::debug::get_info_response::Cert;
use proto::types::Spiffeid;

use super::*;

fn info() -> GetInfoResponse {
    let id = Some(Spiffeid { trust_domain: "td".into(), path: "/spire/agent/x".into() });
    GetInfoResponse {
        svid_chain: vec![
            Cert { id, expires_at: 1_700_000_000, subject: "O=SPIRE,C=US".into() },
            Cert { id: None, expires_at: 1_700_000_001, subject: "CN=<root>".into() },
        ],
        uptime: 3661,
        svids_count: 2,
        last_sync_success: 1_700_000_002,
        cached_x509_svids_count: 2,
        cached_jwt_svids_count: 0,
        cached_svidstore_x509_svids_count: 0,
    }
}

#[test]
fn info_for_people() {
    let expected = "Agent Debug Info:
  Uptime:                          1h1m1s
  Last Sync Success:               2023-11-14T22:13:22Z
  Cached X.509 SVIDs:              2
  Cached JWT SVIDs:                0
  Cached SVID Store X.509 SVIDs:   0
  SVID Chain:
    [0] SPIFFE ID:  spiffe://td/spire/agent/x
        Subject:    O=SPIRE,C=US
        Expires At: 2023-11-14T22:13:20Z
    [1] SPIFFE ID:  (none)
        Subject:    CN=<root>
        Expires At: 2023-11-14T22:13:21Z";
    assert_eq!(info_text(&info()), expected);
    assert!(info_text(&GetInfoResponse::default()).contains("(never)"));
}

#[test]
fn info_for_scripts() {
    let expected = r#"{"cached_jwt_svids_count":0,"cached_svidstore_x509_svids_count":0,"cached_x509_svids_count":2,"last_sync_success":"1700000002","svid_chain":[{"expires_at":"1700000000","id":{"path":"/spire/agent/x","trust_domain":"td"},"subject":"O=SPIRE,C=US"},{"expires_at":"1700000001","subject":"CN=\u003croot\u003e"}],"svids_count":2,"uptime":3661}"#;
    assert_eq!(info_json(&info()), expected);
}

#[test]
fn levels() {
    let logger = Logger { current_level: LogLevel::Warn.into(), launch_level: LogLevel::Info.into() };
    assert_eq!(logger_text(&logger), "Logger Level : warning\nLaunch Level : info\n");
    assert_eq!(logger_json(&logger), r#"{"current_level":"WARN","launch_level":"INFO"}"#);
    let level = |given: &str| level(&LOGGER_SET.parse(&["-level".to_owned(), given.to_owned()]).unwrap());
    assert_eq!(level("Warning"), Ok(LogLevel::Warn));
    assert_eq!(level("loud"), Err("the value \"loud\" is not a valid setting".to_owned()));
    assert_eq!(level(""), Err("a value (-level) must be set".to_owned()));
}

#[test]
fn an_empty_socket_path_is_the_default() {
    let socket = |words: &[&str]| {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        socket(&GET_INFO.parse(&words).unwrap()).to_owned()
    };
    assert_eq!(socket(&[]), Path::new(DEFAULT_SOCKET));
    assert_eq!(socket(&["-socketPath", ""]), Path::new(DEFAULT_SOCKET));
    assert_eq!(socket(&["-socketPath", "/a.sock"]), Path::new("/a.sock"));
}
