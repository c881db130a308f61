use bytes::Bytes;
use identity::PrivateKey;
use proto::workload::X509svid;
use time::OffsetDateTime;

use super::*;

pub(in crate::cli) fn certificate(from: i64) -> Certificate {
    let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
    Certificate { der: Bytes::new(), not_before: at(from), not_after: at(from + 3600) }
}

pub(in crate::cli) fn svid(hint: &str, chain: usize) -> Svid {
    Svid {
        id: "spiffe://td/a".into(),
        hint: hint.into(),
        chain: (0..chain).map(|_| certificate(0)).collect(),
        key: PrivateKey::from_pkcs8(Vec::new()),
        bundle: vec![certificate(0), certificate(1_700_000_000)],
    }
}

#[test]
fn one_svid_for_people() {
    let text = pretty(&[svid("", 1)], &BTreeMap::new(), Duration::from_micros(1500));
    let expected = "Received 1 svid after 1.5ms\n\n\
        SPIFFE ID:\t\tspiffe://td/a\n\
        SVID Valid After:\t1970-01-01 00:00:00 +0000 UTC\nSVID Valid Until:\t1970-01-01 01:00:00 +0000 UTC\n\
        CA #1 Valid After:\t1970-01-01 00:00:00 +0000 UTC\nCA #1 Valid Until:\t1970-01-01 01:00:00 +0000 UTC\n\
        CA #2 Valid After:\t2023-11-14 22:13:20 +0000 UTC\nCA #2 Valid Until:\t2023-11-14 23:13:20 +0000 UTC\n";
    assert_eq!(text, expected);
}

#[test]
fn everything_for_people() {
    let federated = BTreeMap::from([("spiffe://other".to_owned(), vec![certificate(0)])]);
    let text = pretty(&[svid("web", 2), svid("", 1)], &federated, Duration::from_secs(2));
    assert!(
        text.starts_with("Received 2 svids after 2s\n\nSPIFFE ID:\t\tspiffe://td/a\nHint:\t\t\tweb\n"),
        "{text}"
    );
    assert!(
        text.contains("\nIntermediate #1 Valid Until:\t1970-01-01 01:00:00 +0000 UTC\nCA #1 Valid After:"),
        "{text}"
    );
    assert_eq!(text.matches("\n[spiffe://other] CA #1 Valid After:\t").count(), 2, "{text}");
}

#[test]
fn json_has_all_fields_in_order() {
    let mut response = X509svidResponse::default();
    assert_eq!(json(&response), r#"{"crl":[],"federated_bundles":{},"svids":[]}"#);
    response.federated_bundles.insert("spiffe://o".into(), Bytes::from_static(b"\xfb\xff"));
    response.svids.push(X509svid {
        spiffe_id: "spiffe://td/a".into(),
        x509_svid: Bytes::from_static(b"1"),
        x509_svid_key: Bytes::from_static(b"2"),
        bundle: Bytes::new(),
        hint: "<a> & \u{2028}\"é".into(),
    });
    let expected = r#"{"crl":[],"federated_bundles":{"spiffe://o":"+/8="},"svids":[{"bundle":"","hint":"\u003ca\u003e \u0026 \u2028\"é","spiffe_id":"spiffe://td/a","x509_svid":"MQ==","x509_svid_key":"Mg=="}]}"#;
    assert_eq!(json(&response), expected);
}
