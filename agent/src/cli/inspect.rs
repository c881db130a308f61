//! The commands `explain` and `issuance`, which ask a running agent on its admin socket. They are Finial's own.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use proto::inspect::inspect_client::InspectClient;
use proto::inspect::{ExplainRequest, ListRecordsRequest};
use serde_json::Value;
use tonic::transport::Channel;

use super::admin::{SOCKET, socket};
use super::client::{self, RpcError};
use super::flags::{FlagSet, Values, many, output};
use super::print::Format;
use super::{block_on, console};
use crate::plain::plain;

/// Runs `explain`. The exit code is 0 if there is no cause why an identity should be missing, 2 if there is one, and 1 if
/// the agent cannot be asked.
pub(super) fn explain(values: &Values) -> ExitCode {
    let request = match request(values) {
        Ok(request) => request,
        Err(reason) => return refuse(&reason),
    };
    block_on(async {
        let asking = async {
            let mut client = client(values).await?;
            Ok::<_, RpcError>(client.explain(request).await?.into_inner().json)
        };
        match client::within(Some(LIMIT), asking).await {
            Ok(json) => {
                let answer = read(&json);
                console::out(&match values.format() {
                    Format::Pretty => explanation(&answer),
                    Format::Json => json,
                });
                if has_cause(&answer) { ExitCode::from(CAUSE) } else { ExitCode::SUCCESS }
            }
            Err(error) => unasked(values, &error),
        }
    })
}

/// Runs `issuance`.
pub(super) fn issuance(values: &Values) -> ExitCode {
    let pid = match values.rest() {
        [] => 0,
        [pid] => match pid.parse() {
            Ok(pid) => pid,
            Err(_) => return refuse(&format!("{pid:?} is no pid")),
        },
        _ => return refuse("give one pid, or none"),
    };
    block_on(async {
        let asking = async {
            let mut client = client(values).await?;
            Ok::<_, RpcError>(client.list_records(ListRecordsRequest { pid }).await?.into_inner().json)
        };
        match client::within(Some(LIMIT), asking).await {
            Ok(json) => {
                console::out(&match values.format() {
                    Format::Pretty => records(&read(&json)),
                    Format::Json => json,
                });
                ExitCode::SUCCESS
            }
            Err(error) => unasked(values, &error),
        }
    })
}

/// An answer of the agent, whose texts are fit for a terminal.
fn read(json: &str) -> Value {
    plain(serde_json::from_str(json).unwrap_or_default())
}

pub(super) async fn client(values: &Values) -> Result<InspectClient<Channel>, RpcError> {
    Ok(InspectClient::new(client::connect(socket(values)).await?).max_decoding_message_size(usize::MAX))
}

fn request(values: &Values) -> Result<ExplainRequest, String> {
    let selectors = values.many("selector");
    match values.rest() {
        [] if selectors.is_empty() => Err("give a pid, or selectors by -selector TYPE:VALUE".to_owned()),
        [] => Ok(ExplainRequest { pid: 0, selectors }),
        [pid] if selectors.is_empty() => {
            let number = pid.parse().ok().filter(|number| *number > 0);
            let pid = number.ok_or_else(|| format!("{pid:?} is no pid"))?;
            Ok(ExplainRequest { pid, selectors })
        }
        [_] => Err("give either a pid or selectors".to_owned()),
        _ => Err("give one pid, after the flags".to_owned()),
    }
}

/// Says why the agent could not be asked. Agents have no admin socket unless one is configured, so a missing one is named as
/// such.
pub(super) fn unasked(values: &Values, error: &RpcError) -> ExitCode {
    let socket = socket(values);
    if socket.exists() {
        return refuse(&error.to_string());
    }
    refuse(&format!(
        "there is no socket {}; set admin_socket_path in the agent's configuration, or give the path that it has there with \
         -socketPath",
        socket.display()
    ))
}

fn refuse(reason: &str) -> ExitCode {
    console::err(&format!("Error: {reason}"));
    ExitCode::FAILURE
}

fn has_cause(answer: &Value) -> bool {
    list(answer, "findings").iter().any(|finding| finding["severity"] == "cause")
}

/// An explanation as text, without the last newline.
fn explanation(answer: &Value) -> String {
    let who = match answer["pid"].as_i64() {
        Some(pid) => format!("Process {pid}"),
        None => "Whoever has these selectors".to_owned(),
    };
    let mut out = match list(answer, "matched").len() {
        0 => format!("{who} has no identity."),
        1 => format!("{who} matches 1 entry."),
        count => format!("{who} matches {count} entries."),
    };
    for finding in list(answer, "findings") {
        let _ = write!(
            out,
            "\n\n{:<8} {}: {}",
            word(finding, "severity"),
            word(finding, "code"),
            word(finding, "text")
        );
        let action = word(finding, "action");
        if !action.is_empty() {
            let _ = write!(out, "\n         -> {action}");
        }
    }
    out.push('\n');
    let attestors: Vec<String> = list(answer, "attestors")
        .iter()
        .map(|one| match word(one, "reason") {
            "" => format!("{} {}", word(one, "name"), word(one, "outcome")),
            reason => format!("{} {} ({reason})", word(one, "name"), word(one, "outcome")),
        })
        .collect();
    if !attestors.is_empty() {
        let _ = write!(out, "\nAttestors: {}", attestors.join(", "));
    }
    let selectors = words(answer, "selectors");
    if !selectors.is_empty() {
        let _ = write!(out, "\nSelectors: {selectors}");
    }
    for near in list(answer, "nearest") {
        let (id, spiffe_id) = (word(near, "entry_id"), word(near, "spiffe_id"));
        let _ = write!(out, "\nNear:      {id} ({spiffe_id}) lacks {}", words(near, "missing"));
    }
    let synced = answer["agent"]["last_sync"].as_str().unwrap_or("never");
    let entries = answer["agent"]["entries"].as_u64().unwrap_or_default();
    let _ = write!(out, "\nAgent:     {entries} entries, last sync {synced}");
    let recent = list(answer, "records");
    if !recent.is_empty() {
        let _ = write!(out, "\nLately:");
        recent.iter().rev().take(SHOWN).rev().for_each(|one| {
            let _ = write!(out, "\n  {}", record(one));
        });
    }
    out
}

/// The issuance record as text, without the last newline.
fn records(answer: &Value) -> String {
    let list = answer.as_array().map_or(&[][..], Vec::as_slice);
    if list.is_empty() {
        return "Nothing is recorded.".to_owned();
    }
    list.iter().map(record).collect::<Vec<_>>().join("\n")
}

fn record(one: &Value) -> String {
    let pid = one["pid"].as_i64().unwrap_or_default();
    let head = format!("{} {:<7} pid {pid} {}", word(one, "time"), word(one, "event"), word(one, "method"));
    match word(one, "event") {
        "issued" => format!(
            "{head} {} {} by entry {}, {}, until {}",
            word(one, "kind"),
            word(one, "spiffe_id"),
            word(one, "entry_id"),
            match word(one, "serial_number") {
                "" => format!("audience {}", word(one, "audience")),
                serial => format!("serial {serial}"),
            },
            word(one, "expires_at")
        ),
        "refused" => format!("{head} {}: {}", word(one, "code"), word(one, "reason")),
        _ => format!("{head} {}", words(one, "names")),
    }
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn word<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn words(value: &Value, name: &str) -> String {
    list(value, name).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

pub(super) const EXPLAIN_FLAGS: FlagSet = FlagSet {
    name: "explain [flags] PID",
    flags: &[
        output(),
        many("selector", "A selector, TYPE:VALUE, instead of a pid. Can be given several times."),
        SOCKET,
    ],
};
pub(super) const ISSUANCE_FLAGS: FlagSet =
    FlagSet { name: "issuance [flags] [PID]", flags: &[output(), SOCKET] };

/// The exit code for an identity that is missing, or that may not be had.
const CAUSE: u8 = 2;
/// How long the agent may take. An attestor may take three seconds.
const LIMIT: Duration = Duration::from_secs(10);
/// The records that an explanation shows.
const SHOWN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_cannot_write_to_the_terminal() {
        let held = r#"[{"time":"t","event":"held","method":"m","pid":1,"names":["x\u001b[2J\nforged"]}]"#;
        assert_eq!(records(&read(held)), r"t held    pid 1 m x\u{1b}[2J\nforged");
    }
}
