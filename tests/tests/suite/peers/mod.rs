//! Tests with software that others wrote: clients of the Workload API, Envoys, the real server and the real agent.
//!
//! * `admin`: the admin socket, and a Go program that asks there for the identities of others.
//! * `authorities`: the real server's authorities are replaced, tainted and revoked while Envoys talk.
//! * `bearer`: Envoys that send the JWT-SVID that they get by SDS.
//! * `clients`: libraries in four languages. Those in Python, Go and Java run in the programs of `tests/peers`.
//! * `command_lines`: each agent's own commands, against finial and against the real agent (`agents` runs both on one
//!   server).
//! * `helper`, `tunnels`, `discovery`: programs that others use with spire-agent (spiffe-helper, ghostunnel, SPIRE's OIDC
//!   discovery provider), pinned in `tests/peers/programs` and run by `programs`. `caller` calls a tunnel itself.
//! * `envoys`: mTLS over SDS. `mesh` starts the Envoys and sends the requests.
//! * `http_challenge`: node attestation by a nonce that the real server fetches (`attesting` runs an agent that can
//!   attest again).
//! * `h2spec`: conformance of the server's side of HTTP/2.
//! * `links`: links to the real server that break, lead to another replica, or to a server of another authority.
//! * `nested`: a real server below another one. `private_ca`: one below the intermediates of a private root.
//!   `federation`: real servers of two trust domains. (`levels` has an agent
//!   and its server among several, `crossing` a client of several agents, `followed` what this process sees.)
//! * `san`: the verdicts of Envoy and of `finial san check` about peers.
//! * `tables`: the verdicts of the Go at hand for the tables that unit tests hold finial against.
//! * `workloads`: the workload attestors at real daemons (Docker, Podman, a system bus).
//! * `x509pop`: node attestation by certificates, at the real server.
//! * `log_lines`: lines of the log that operators alert on, in the log of either agent.
//! * `otlp`: metrics and log lines at OpenTelemetry's Collector (`tests/peers/otel`).
//! * `metrics`: what either agent tells Prometheus after the same calls.
//! * `scrapers`: curl scrapes either agent over TLS, with and without a certificate.
//! * `rows`: the methods of the public socket, call by call, at both agents.
//! * `real`: finial with the real server (`spire_server`), for a configurable time.

mod admin;
mod agents;
mod attesting;
mod authorities;
mod bearer;
mod caller;
mod clients;
mod command_lines;
mod crossing;
mod discovery;
mod envoys;
mod federation;
mod followed;
mod h2spec;
mod helper;
mod http_challenge;
mod levels;
mod links;
mod log_lines;
mod mesh;
mod metrics;
mod nested;
mod otlp;
mod private_ca;
mod programs;
mod real;
mod rows;
mod san;
mod scrapers;
mod spire_server;
mod tables;
mod tunnels;
mod workloads;
mod x509pop;

pub(super) use self::spire_server::free_port;
use std::future::Future;

use harness::{skipped, trial};
use libtest_mimic::Trial;

pub(super) fn trials() -> Vec<Trial> {
    [
        admin::trials(),
        authorities::trials(),
        bearer::trials(),
        clients::trials(),
        command_lines::trials(),
        discovery::trials(),
        envoys::trials(),
        federation::trials(),
        h2spec::trials(),
        helper::trials(),
        http_challenge::trials(),
        links::trials(),
        log_lines::trials(),
        metrics::trials(),
        nested::trials(),
        otlp::trials(),
        private_ca::trials(),
        real::trials(),
        rows::trials(),
        san::trials(),
        scrapers::trials(),
        tables::trials(),
        tunnels::trials(),
        workloads::trials(),
        x509pop::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A trial that needs a program. It is skipped with the reason if the program is missing.
fn trial_with<N, F, T>(name: &str, needed: Result<N, String>, test: T) -> Trial
where
    N: Send + 'static,
    F: Future<Output = ()>,
    T: FnOnce(N) -> F + Send + 'static,
{
    match needed {
        Ok(needed) => trial(name, move || test(needed)),
        Err(reason) => skipped(name, &reason),
    }
}
