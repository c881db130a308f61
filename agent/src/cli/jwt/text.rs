//! The output of the JWT commands. spire-agent makes its JSON by two encoders of Go, whose numbers and strings are copied
//! here: that of protobuf, which writes claims for people, and that of `encoding/json`, which escapes HTML and leaves out
//! nulls.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proto::workload::{JwtBundlesResponse, JwtsvidResponse, ValidateJwtsvidResponse};
use serde_json::json;

use crate::cli::print::escape_html;
use crate::golang;

/// Tokens and keys as text for people, without the last newline. Go's order of the bundles is random; here they are
/// sorted.
pub(super) fn fetched(svids: &JwtsvidResponse, bundles: &JwtBundlesResponse) -> String {
    let mut text = String::new();
    for svid in &svids.svids {
        let _ = writeln!(text, "token({}):\n\t{}", svid.spiffe_id, svid.svid);
        if !svid.hint.is_empty() {
            let _ = writeln!(text, "hint({}):\n\t{}", svid.spiffe_id, svid.hint);
        }
    }
    for (trust_domain, keys) in &bundles.bundles {
        let _ = writeln!(text, "bundle({trust_domain}):\n\t{}", String::from_utf8_lossy(keys));
    }
    text.truncate(text.trim_end_matches('\n').len());
    text
}

/// Tokens and keys as one line of JSON: the two messages in a list.
pub(super) fn fetched_json(svids: &JwtsvidResponse, bundles: &JwtBundlesResponse) -> String {
    let svids = svids
        .svids
        .iter()
        .map(|svid| json!({ "spiffe_id": svid.spiffe_id, "svid": svid.svid, "hint": svid.hint }));
    let bundles = bundles.bundles.iter().map(|(id, keys)| (id.clone(), STANDARD.encode(keys).into()));
    let bundles: serde_json::Map<_, _> = bundles.collect();
    let both = json!([{ "svids": svids.collect::<Vec<_>>() }, { "bundles": bundles }]);
    escape_html(&both.to_string())
}

/// The claims of a good token as text for people, without the last newline.
pub(super) fn validated(answer: &ValidateJwtsvidResponse) -> String {
    let mut claims = String::new();
    let none = Struct::default();
    object(&mut claims, answer.claims.as_ref().unwrap_or(&none), Nulls::Kept);
    format!("SVID is valid.\nSPIFFE ID : {}\nClaims    : {claims}", answer.spiffe_id)
}

/// The answer as one line of JSON.
pub(super) fn validated_json(answer: &ValidateJwtsvidResponse) -> String {
    let mut text = String::from("{");
    if let Some(claims) = &answer.claims {
        text.push_str("\"claims\":");
        object(&mut text, claims, Nulls::LeftOut);
        text.push(',');
    }
    text.push_str("\"spiffe_id\":");
    string(&mut text, &answer.spiffe_id);
    text.push('}');
    escape_html(&text)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Nulls {
    Kept,
    LeftOut,
}

fn object(text: &mut String, members: &Struct, nulls: Nulls) {
    text.push('{');
    let mut first = true;
    for (name, member) in members.fields.iter().filter(|(_, member)| is_shown(member, nulls)) {
        separate(text, &mut first);
        string(text, name);
        text.push(':');
        value(text, member, nulls);
    }
    text.push('}');
}

fn value(text: &mut String, value_of: &Value, nulls: Nulls) {
    match &value_of.kind {
        None | Some(Kind::NullValue(_)) => text.push_str("null"),
        Some(Kind::BoolValue(on)) => text.push_str(if *on { "true" } else { "false" }),
        Some(Kind::NumberValue(number)) => text.push_str(&golang::json_number(*number)),
        Some(Kind::StringValue(one)) => string(text, one),
        Some(Kind::StructValue(members)) => object(text, members, nulls),
        Some(Kind::ListValue(list)) => {
            text.push('[');
            let mut first = true;
            for element in list.values.iter().filter(|element| is_shown(element, nulls)) {
                separate(text, &mut first);
                value(text, element, nulls);
            }
            text.push(']');
        }
    }
}

fn is_shown(value: &Value, nulls: Nulls) -> bool {
    nulls == Nulls::Kept || !matches!(value.kind, None | Some(Kind::NullValue(_)))
}

fn separate(text: &mut String, first: &mut bool) {
    if !std::mem::take(first) {
        text.push(',');
    }
}

fn string(text: &mut String, value: &str) {
    let _ = write!(text, "{}", serde_json::Value::from(value));
}
