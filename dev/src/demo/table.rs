//! The table: one line per Envoy, from its admin port.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use time::OffsetDateTime;

use super::envoy::Envoy;
use super::plan::Workload;
use super::screen::Screen;
use super::world::World;

/// The table. It remembers serial numbers to count replacements.
#[derive(Debug, Default)]
pub(crate) struct Table {
    seen: BTreeMap<&'static str, Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    serial: String,
    replaced: usize,
}

impl Table {
    /// The present text of the table.
    pub(crate) async fn draw(&mut self, world: &World<'_>, screen: &Screen) -> String {
        let mut text = String::new();
        let head = row(
            "ENVOY",
            "SPIFFE ID",
            "SERIAL",
            "EXPIRES",
            "REPLACED",
            "HANDSHAKES IN/OUT",
            "CALLS OK/FAILED",
        );
        let _ = writeln!(text, "{}", screen.styled("1", &head));
        for (workload, envoy) in world.workloads() {
            let _ = writeln!(text, "{}", self.row(workload, envoy).await);
        }
        text
    }

    async fn row(&mut self, workload: &'static Workload, envoy: &Envoy) -> String {
        let certificates = envoy.certificates().await.unwrap_or_default();
        let stats = envoy.stats().await.unwrap_or_default();
        let own = certificates.own.first();
        let serial = own.map(|certificate| certificate.serial.clone()).unwrap_or_default();
        let seen = self.seen.entry(workload.name).or_default();
        if seen.serial != serial {
            seen.replaced += usize::from(!seen.serial.is_empty());
            seen.serial.clone_from(&serial);
        }
        let expires = own.and_then(|certificate| certificate.expires);
        let left = expires.map(|at| format!("{} s", (at - OffsetDateTime::now_utc()).whole_seconds()));
        let out: u64 = workload.routes.iter().map(|(_, callee)| stats.handshakes_with(callee)).sum();
        let (ok, failed) = stats.requests();
        row(
            workload.name,
            own.map_or("(none)", |certificate| &certificate.uri),
            &serial[serial.len().saturating_sub(8)..],
            &left.unwrap_or_default(),
            &seen.replaced.to_string(),
            &format!("{}/{out}", stats.handshakes_in()),
            &format!("{ok}/{failed}"),
        )
    }
}

fn row(
    name: &str,
    id: &str,
    serial: &str,
    expires: &str,
    replaced: &str,
    handshakes: &str,
    calls: &str,
) -> String {
    format!("{name:<10} {id:<42} {serial:>8} {expires:>8} {replaced:>8} {handshakes:>17} {calls:>15}")
}
