use bytes::Bytes;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use proto::workload::Jwtsvid;
use tonic::Status;

use super::*;
use crate::cli::client::tests::{mute, speaks_once};

fn answers() -> (JwtsvidResponse, JwtBundlesResponse) {
    let svid =
        |id: &str, hint: &str| Jwtsvid { spiffe_id: id.into(), svid: "a.b.c".into(), hint: hint.into() };
    let bundles = [("spiffe://td", "{\n    \"keys\": []\n}"), ("spiffe://other", "{}")];
    let bundles = bundles.map(|(id, keys)| (id.to_owned(), Bytes::from_static(keys.as_bytes())));
    let svids = vec![svid("spiffe://td/a", "<in>"), svid("spiffe://td/b", "")];
    (JwtsvidResponse { svids }, JwtBundlesResponse { bundles: bundles.into() })
}

#[test]
fn tokens_and_keys() {
    let (svids, bundles) = answers();
    let expected = "token(spiffe://td/a):\n\ta.b.c\nhint(spiffe://td/a):\n\t<in>\ntoken(spiffe://td/b):\n\ta.b.c\n\
                    bundle(spiffe://other):\n\t{}\nbundle(spiffe://td):\n\t{\n    \"keys\": []\n}";
    assert_eq!(text::fetched(&svids, &bundles), expected);
    let expected = r#"[{"svids":[{"hint":"\u003cin\u003e","spiffe_id":"spiffe://td/a","svid":"a.b.c"},{"hint":"","spiffe_id":"spiffe://td/b","svid":"a.b.c"}]},{"bundles":{"spiffe://other":"e30=","spiffe://td":"ewogICAgImtleXMiOiBbXQp9"}}]"#;
    assert_eq!(text::fetched_json(&svids, &bundles), expected);
    let nothing = text::fetched_json(&JwtsvidResponse::default(), &JwtBundlesResponse::default());
    assert_eq!(nothing, r#"[{"svids":[]},{"bundles":{}}]"#);
}

#[test]
fn claims() {
    let of = |kind| Value { kind: Some(kind) };
    let list =
        |values: Vec<Kind>| Kind::ListValue(ListValue { values: values.into_iter().map(of).collect() });
    let member = |name: &str, kind| (name.to_owned(), of(kind));
    let fields = [
        member("aud", list(vec![Kind::StringValue("<a>\u{7f}\n".into())])),
        member("exp", Kind::NumberValue(1_800_000_000.0)),
        member("null", Kind::NullValue(0)),
        member("list", list(vec![Kind::NullValue(0), Kind::BoolValue(true), Kind::NumberValue(1e21)])),
        member("deep", Kind::StructValue(Struct { fields: [member("n", Kind::NullValue(0))].into() })),
    ];
    let claims = Some(Struct { fields: fields.into() });
    let answer = ValidateJwtsvidResponse { spiffe_id: "spiffe://td/a".into(), claims };
    let expected = "SVID is valid.\nSPIFFE ID : spiffe://td/a\nClaims    : {\"aud\":[\"<a>\u{7f}\\n\"],\
                    \"deep\":{\"n\":null},\"exp\":1800000000,\"list\":[null,true,1e+21],\"null\":null}";
    assert_eq!(text::validated(&answer), expected);
    let expected = "{\"claims\":{\"aud\":[\"\\u003ca\\u003e\u{7f}\\n\"],\"deep\":{},\"exp\":1800000000,\
                    \"list\":[true,1e+21]},\"spiffe_id\":\"spiffe://td/a\"}";
    assert_eq!(text::validated_json(&answer), expected);
    let none = ValidateJwtsvidResponse { claims: None, ..answer };
    assert_eq!(text::validated_json(&none), r#"{"spiffe_id":"spiffe://td/a"}"#);
}

#[test]
fn errors_are_in_spire_agents_words() {
    let of = |status: Status| JwtError::of_validation(status.into()).to_string();
    assert_eq!(of(Status::invalid_argument("token has expired")), "SVID is not valid: token has expired");
    let late = JwtError::of_validation(RpcError::Deadline).to_string();
    assert!(late.starts_with("unable to validate JWT SVID: rpc error: code = DeadlineExceeded"), "{late}");
    let unavailable = of(Status::unavailable("x"));
    assert_eq!(unavailable, "unable to validate JWT SVID: rpc error: code = Unavailable desc = x");
}

fn values(set: &'static FlagSet, line: &str) -> Values {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    set.parse(&words).unwrap()
}

#[tokio::test]
async fn what_must_be_given() {
    for line in ["", "-spiffeID spiffe://td/a"] {
        let missing = fetched(&values(&FETCH_FLAGS, line)).await.unwrap_err();
        assert_eq!(missing.to_string(), "audience must be specified");
    }
    for (line, expected) in
        [("-svid x", "audience must be specified"), ("-audience a", "svid must be specified")]
    {
        let missing = validated(&values(&VALIDATE_FLAGS, line)).await.unwrap_err();
        assert_eq!(missing.to_string(), expected);
    }
    let empty = fetched(&values(&FETCH_FLAGS, "-audience= -socketPath /nobody")).await.unwrap_err();
    let expected = "failed to receive JWT bundles: rpc error: code = Unavailable desc = connection error: ";
    assert!(empty.to_string().starts_with(expected), "one audience is the empty text: {empty}");
}

#[tokio::test(start_paused = true)]
async fn each_call_has_its_limit() {
    let line =
        |path: &std::path::Path| format!("-audience a -svid x -timeout 7s -socketPath {}", path.display());
    let (_folder, silent, _listener) = mute();
    let begun = Instant::now();
    let late = fetched(&values(&FETCH_FLAGS, &line(&silent).replace("-svid x", ""))).await.unwrap_err();
    let deadline = "rpc error: code = DeadlineExceeded desc = context deadline exceeded";
    assert_eq!(late.to_string(), format!("failed to receive JWT bundles: {deadline}"));
    let (_folder, busy) = speaks_once();
    let late = fetched(&values(&FETCH_FLAGS, &line(&busy).replace("-svid x", ""))).await.unwrap_err();
    assert_eq!(late.to_string(), deadline);
    let (_folder, busy) = speaks_once();
    let late = validated(&values(&VALIDATE_FLAGS, &line(&busy))).await.unwrap_err();
    assert_eq!(late.to_string(), format!("unable to validate JWT SVID: {deadline}"));
    assert_eq!(begun.elapsed().as_secs(), 21);
}
