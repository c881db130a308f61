//! Units of systemd: a unit that the test starts (`host` finds or starts the real systemd), and a real bus of the test's
//! own, on which a program stands in for systemd (`tests/peers/systemd_units.py`).

mod host;

use std::path::PathBuf;

use harness::{Agent, build_finial, needs, python, x509_svid};
use libtest_mimic::Trial;
use tempfile::TempDir;
use tokio::process::Command;
use tonic::Code;

use self::host::{Host, Place};
use super::super::super::ids;
use super::super::agents::Attestors;
use super::super::clients::peers;
use super::super::programs::Program;
use super::{FETCH, Real, agents, as_root, fetched, trials_of};

pub(super) fn trials() -> Vec<Trial> {
    let bus = needs("DBUS_DAEMON", "dbus-daemon").and_then(|bus| Ok((bus, python(&["dbus_fast"])?)));
    let mut trials = trials_of("systemd_selectors_on_a_bus", bus, on_a_bus);
    trials.extend(trials_of("systemd_selectors_of_a_unit", as_root(Place::find()), of_a_unit));
    trials
}

/// A bus like the system's, on which anybody may have any name.
async fn bus(program: PathBuf, folder: &TempDir) -> (Program, String) {
    let socket = folder.path().join("bus");
    let conf = folder.path().join("bus.conf");
    let text = format!(
        "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\"
         \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">
         <busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
         <policy context=\"default\"><allow user=\"*\"/><allow own=\"*\"/><allow send_destination=\"*\"/>
         <allow receive_sender=\"*\"/></policy></busconfig>",
        socket.display()
    );
    std::fs::write(&conf, text).expect("written");
    let mut command = Command::new(program);
    command.arg("--config-file").arg(&conf).args(["--nofork", "--nopidfile", "--print-address"]);
    let mut bus = Program::start("dbus-daemon", &mut command);
    bus.prints("unix:path=").await;
    (bus, format!("unix:path={}", socket.display()))
}

async fn on_a_bus((program, python): (PathBuf, PathBuf), real: Real) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (_bus, address) = bus(program, &folder).await;
    let mut command = Command::new(&python);
    command.arg(peers("systemd_units.py")).arg(&address).arg(std::process::id().to_string());
    let mut systemd = Program::start("systemd_units.py", &mut command);
    systemd.prints("ready").await;
    let mut attestor = Attestors::of("WorkloadAttestor \"systemd\" {}".to_owned());
    attestor.environment.push(("DBUS_SYSTEM_BUS_ADDRESS", address.into()));
    let entries = [
        ("id", "systemd:id:web.service"),
        ("file", "systemd:fragment_path:/etc/systemd/system/web.service"),
        ("other", "systemd:id:db.service"),
    ];
    let mut agents = agents(real, &attestor, &entries).await;
    for running in &mut agents.all {
        let served = ids_of(&running.agent).await;
        let expected = ["spiffe://example.org/file", "spiffe://example.org/id"].map(str::to_owned).to_vec();
        assert_eq!(served, Ok(expected), "{}: {}", running.whose, running.agent.log());
        // A process of no unit: the only attestor fails.
        let socket = running.agent.socket();
        let mut command = Command::new(build_finial());
        let words = &FETCH[1..FETCH.len() - 1];
        let refused = fetched(command.args(words).arg(&socket)).await.expect_err("it has no unit");
        assert!(refused.contains("workload attestation failed"), "{}: {refused}", running.whose);
        let line = running.agent.logged("workload attestor \\\"systemd\\\" failed").await;
        assert!(
            line.contains("does not belong to any loaded unit.") && line.contains("code = Internal"),
            "{line}"
        );
    }
    // Without systemd on the bus, nothing is known of anybody.
    drop(systemd);
    for running in &agents.all {
        // The bus learns of the program's end some time after it.
        let refusal = loop {
            if let Err(refusal) = ids_of(&running.agent).await {
                break refusal;
            }
        };
        assert_eq!(refusal, Code::Unavailable, "{}", running.whose);
    }
}

/// The SPIFFE IDs of this process, sorted, or the code of the refusal.
async fn ids_of(agent: &Agent) -> Result<Vec<String>, Code> {
    let mut stream = x509_svid(&agent.socket()).await.map_err(|status| status.code())?;
    let response = stream.message().await.map_err(|status| status.code())?.expect("a response");
    let mut found: Vec<_> = ids(&response).into_iter().map(str::to_owned).collect();
    found.sort();
    Ok(found)
}

async fn of_a_unit(place: Place, real: Real) {
    let mut host = Host::at(place).await;
    let unit = format!("finial-trial-{}", std::process::id());
    let id = format!("systemd:id:{unit}.service");
    let file = format!("systemd:fragment_path:/run/systemd/transient/{unit}.service");
    let entries = [("id", &*id), ("file", &*file), ("other", "systemd:id:db.service")];
    let mut attestor = Attestors::of("WorkloadAttestor \"systemd\" {}".to_owned());
    attestor.shell = host.shell();
    let agents = agents(real, &attestor, &entries).await;
    for running in &agents.all {
        let mut run = host.command("systemd-run");
        run.args(["--quiet", "--wait", "--pipe", "--collect", "--property", "DefaultDependencies=no"]);
        run.args(["--unit", &unit]).arg(build_finial());
        let found = fetched(run.args(&FETCH[1..FETCH.len() - 1]).arg(running.agent.socket())).await;
        let log = running.agent.log();
        assert_eq!(found, Ok(vec!["file".to_owned(), "id".to_owned()]), "{}: {log}", running.whose);
    }
    drop(agents);
    host.end().await;
}
