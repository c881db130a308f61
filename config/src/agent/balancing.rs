//! `experimental.server_load_balancing_config` (SPIRE 1.16): a gRPC service config in JSON, of which the load balancing
//! policy counts (gRPC, `service_config.md`).

use serde_json::Value;

use crate::ServerOrder;
use crate::decode::{Section, Setting};

pub(super) fn read(section: &Section<'_>) -> ServerOrder {
    let Some(Setting { value, line }) = section.text("server_load_balancing_config") else {
        return ServerOrder::default();
    };
    if value.is_empty() {
        return ServerOrder::default();
    }
    order(&value).unwrap_or_else(|reason| {
        let message = format!("experimental.server_load_balancing_config {reason}");
        section.report().problem(line, message);
        ServerOrder::default()
    })
}

/// As it stands in JSON; in HCL each quote has a backslash before it.
const EXAMPLE: &str = r#"{"loadBalancingConfig":[{"pick_first":{}}]}"#;

/// The order of the first policy in the list that exists here, as gRPC picks it.
fn order(text: &str) -> Result<ServerOrder, String> {
    let config: Value = serde_json::from_str(text)
        .map_err(|reason| format!("is not JSON ({reason}): write, for example, {EXAMPLE}"))?;
    let policies: Vec<(&str, &Value)> = match config.get("loadBalancingConfig") {
        Some(list) => {
            let list = list.as_array().ok_or("has a \"loadBalancingConfig\" that is not a list")?;
            list.iter()
                .filter_map(|policy| policy.as_object())
                .flatten()
                .map(|(name, config)| (&**name, config))
                .collect()
        }
        None => return Err(format!("has no \"loadBalancingConfig\": write, for example, {EXAMPLE}")),
    };
    let known = policies.iter().find_map(|(name, config)| match *name {
        "pick_first" => Some(match config.get("shuffleAddressList").and_then(Value::as_bool) {
            Some(true) => ServerOrder::Random,
            _ => ServerOrder::AsListed,
        }),
        "round_robin" => Some(ServerOrder::Random),
        _ => None,
    });
    known.ok_or_else(|| {
        let names: Vec<&str> = policies.iter().map(|(name, _)| *name).collect();
        format!("names no policy that exists here (pick_first, round_robin), but {names:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_policy_counts() {
        for (text, expected) in [
            (r#"{"loadBalancingConfig":[{"pick_first":{}}]}"#, ServerOrder::AsListed),
            (r#"{"loadBalancingConfig":[{"pick_first":{"shuffleAddressList":true}}]}"#, ServerOrder::Random),
            (r#"{ "loadBalancingConfig": [ { "round_robin": {} } ] }"#, ServerOrder::Random),
            (
                r#"{"loadBalancingConfig":[{"least_request":{}},{"pick_first":{}},{"round_robin":{}}]}"#,
                ServerOrder::AsListed,
            ),
        ] {
            assert_eq!(order(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        for (text, reason) in [
            ("{", "is not JSON"),
            ("{}", "has no \"loadBalancingConfig\""),
            (r#"{"loadBalancingConfig":{}}"#, "not a list"),
            (r#"{"loadBalancingConfig":[{"ring_hash":{}}]}"#, "but [\"ring_hash\"]"),
        ] {
            let said = order(text).unwrap_err();
            assert!(said.contains(reason), "{text}: {said}");
        }
    }
}
