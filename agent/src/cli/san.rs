//! `san check`: tells whether an Envoy with this policy would accept this peer.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::process::ExitCode;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject as _};
use san::{Match, Peer, PeerError, Policy, PolicyError, Verdict, read};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::console;
use super::flags::{FlagSet, Values, text};

/// Runs `san check`. The exit code is 0 for accept, 1 for reject, and 2 if there is no verdict.
pub(super) fn run(values: &Values) -> ExitCode {
    match check(values) {
        Ok((report, accepted)) => {
            console::out(&report);
            if accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(reason) => {
            console::err(&format!("san check: {reason}"));
            ExitCode::from(BAD_INPUT)
        }
    }
}

fn check(values: &Values) -> Result<(String, bool), InputError> {
    let given = |name| values.given_text(name).filter(|value| !value.is_empty());
    let certificate = given("cert").ok_or(InputError::Missing("cert"))?;
    let file = given("policy").ok_or(InputError::Missing("policy"))?;
    let at = given("at").map_or_else(|| Ok(SystemTime::now()), |text| time(&text))?;
    let mut notes = Vec::new();
    let named = |reason| InputError::Policy { file: file.clone(), reason };
    let reading = read::policy(&document(&file)?, FILES).map_err(named)?;
    let context = match (given("sds"), reading.secret) {
        (None, None) => reading.context,
        (None, Some(secret)) => return Err(InputError::Sds { file, secret }),
        (Some(sds), secret) => {
            let named = |reason| InputError::Policy { file: sds.clone(), reason };
            let delivered = read::delivered(&document(&sds)?, secret.as_deref(), FILES).map_err(named)?;
            if secret.is_none() {
                notes.push("the policy names no secret: -sds is merged into it as if it did".to_owned());
            }
            reading.context.merge(delivered)
        }
    };
    let policy = Policy::compile(&context)?;
    let chain = chain(&certificate)?;
    let judged = policy.check(&chain, at, reading.peer.unwrap_or(Peer::Client));
    let verdict = judged.map_err(|reason| InputError::Peer { file: certificate, reason })?;
    notes.extend(policy.warnings().iter().map(ToString::to_string));
    Ok((report(&policy, &verdict, &notes), verdict.refusal.is_none()))
}

/// The report: the verdict, a line for each matcher, and the warnings.
fn report(policy: &Policy, verdict: &Verdict<'_>, notes: &[String]) -> String {
    let mut report = match &verdict.refusal {
        None => "accept".to_owned(),
        Some(refusal) => format!("reject: {refusal} (Envoy's counter: ssl.{})", refusal.stat()),
    };
    for (matcher, found) in policy.matchers().iter().zip(&verdict.matches) {
        let _ = match found {
            Match::Name(name) => write!(report, "\n  {matcher}: matches {name}"),
            Match::Nothing => write!(report, "\n  {matcher}: matches no name"),
            Match::Ignored => write!(report, "\n  {matcher}: ignored by the SPIFFE validator"),
        };
    }
    for note in notes {
        let _ = write!(report, "\nwarning: {note}");
    }
    report
}

/// Parses a file as YAML, which includes JSON.
fn document(file: &str) -> Result<Value, InputError> {
    let bytes = content(file)?;
    let yaml = |reason: String| InputError::Yaml { file: file.to_owned(), reason };
    let text = std::str::from_utf8(&bytes).map_err(|reason| yaml(reason.to_string()))?;
    serde_saphyr::from_str(text).map_err(|reason| yaml(reason.to_string()))
}

/// Reads certificates: PEM with the leaf first, or one certificate in DER.
fn chain(file: &str) -> Result<Vec<CertificateDer<'static>>, InputError> {
    let bytes = content(file)?;
    let mut chain = Vec::new();
    for der in CertificateDer::pem_slice_iter(&bytes) {
        chain.push(der.map_err(|reason| InputError::Pem { file: file.to_owned(), reason })?.into_owned());
    }
    if chain.is_empty() {
        let pem = bytes.windows(BEGIN.len()).any(|start| start == BEGIN);
        if pem || bytes.is_empty() {
            return Err(InputError::NoCertificate(file.to_owned()));
        }
        chain.push(CertificateDer::from(bytes));
    }
    Ok(chain)
}

fn content(file: &str) -> Result<Vec<u8>, InputError> {
    bounded(file).map_err(|reason| InputError::Read { file: file.to_owned(), reason })
}

/// Reads a file of at most [`LARGEST`] bytes. A larger one is no policy and no certificate, but perhaps a device
/// without an end.
fn bounded(file: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST { Err(io::Error::other("larger than 16 MiB")) } else { Ok(bytes) }
}

fn time(text: &str) -> Result<SystemTime, InputError> {
    let parsed = OffsetDateTime::parse(text, &Rfc3339);
    parsed.map(SystemTime::from).map_err(|_| InputError::Time(text.to_owned()))
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
enum InputError {
    #[error("-{0} is needed")]
    Missing(&'static str),
    #[error("-at {0:?} is not a time like 2026-01-31T12:00:00Z")]
    Time(String),
    #[error("cannot read {file:?}: {reason}")]
    Read { file: String, reason: io::Error },
    #[error("{file}: {reason}")]
    Yaml { file: String, reason: String },
    #[error("{file}: {reason:?}")]
    Pem { file: String, reason: pem::Error },
    #[error("{0}: no certificate in it")]
    NoCertificate(String),
    #[error("{file}: {reason}")]
    Policy { file: String, reason: read::ReadError },
    #[error(
        "{file}: a part of this policy is the secret {secret:?}, by SDS: give what is delivered for it with -sds"
    )]
    Sds { file: String, secret: String },
    #[error(transparent)]
    Compile(#[from] PolicyError),
    #[error("{file}: {reason}")]
    Peer { file: String, reason: PeerError },
}

/// The flags of `san check`.
pub(super) const FLAGS: FlagSet = FlagSet {
    name: "san check",
    flags: &[
        text("at", "", "When, as in 2026-01-31T12:00:00Z; default: now"),
        text("cert", "", "The peer's certificates: PEM, leaf first; or its leaf in DER"),
        text("policy", "", "Envoy's validation context, or a TLS context that has one: YAML or JSON"),
        text("sds", "", "What SDS delivers for the secret that the policy names: YAML or JSON"),
    ],
};

const FILES: read::Files<'static> = &bounded;
const BEGIN: &[u8] = b"-----BEGIN";
/// The largest input file in bytes.
const LARGEST: u64 = 16 << 20;
/// The exit code if there is no verdict.
pub(super) const BAD_INPUT: u8 = 2;
