//! The real systemd: the one that runs this system, or else one that the test starts as the first process of a pid
//! namespace.
//!
//! That one has only the units below, so it starts nothing of this system, and a mount namespace in which `/run` is its own
//! and nothing but `/tmp` can be written. It does have the system's cgroups, so it is started only where no other systemd
//! has them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::needs;
use nix::unistd::{AccessFlags, access};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::super::super::programs::Program;
use super::super::remove_cgroups;

/// Where a systemd can be had.
#[derive(Clone)]
pub(super) enum Place {
    Here,
    /// The programs of systemd and of the bus.
    Namespaces(PathBuf, PathBuf),
}

impl Place {
    pub(super) fn find() -> Result<Self, String> {
        needs("SYSTEMD_RUN", "systemd-run")?;
        if Path::new("/run/systemd/system").is_dir() {
            return Ok(Self::Here);
        }
        let systemd = Path::new("/lib/systemd/systemd");
        let cgroups = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/cgroup.procs"];
        if !systemd.is_file() {
            return Err("there is no systemd".to_owned());
        }
        if !cgroups.iter().any(|path| access(*path, AccessFlags::W_OK).is_ok()) {
            return Err("cgroups cannot be written".to_owned());
        }
        Ok(Self::Namespaces(systemd.to_owned(), needs("DBUS_DAEMON", "dbus-daemon")?))
    }
}

/// A systemd that runs.
pub(super) enum Host {
    Here,
    Namespaces { systemd: Box<Program>, pid: String, _units: TempDir },
}

impl Host {
    pub(super) async fn at(place: Place) -> Self {
        let Place::Namespaces(program, bus) = place else { return Self::Here };
        let units = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in [
            ("trial.target", "[Unit]\nDefaultDependencies=no\nWants=dbus.service\n".to_owned()),
            ("dbus.socket", format!("{UNIT}[Socket]\nListenStream=/run/dbus/system_bus_socket\n")),
            (
                "dbus.service",
                format!(
                    "{UNIT}Requires=dbus.socket\n[Service]\nExecStart={} --system --address=systemd: --nofork --nopidfile \
                     --systemd-activation\n",
                    bus.display()
                ),
            ),
        ] {
            std::fs::write(units.path().join(name), text).expect("written");
        }
        let script = "mount --make-rprivate / && mount --bind /tmp /tmp && mount -t proc proc /proc &&
            mount -t tmpfs tmpfs /run && mount -o remount,bind,ro / &&
            exec env -i container=trial PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH=\"$0\" \"$1\" --system --unit=trial.target";
        let mut command = Command::new("unshare");
        command.args(["--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child", "sh", "-c", script]);
        let systemd = Box::new(Program::start("systemd", command.arg(units.path()).arg(program)));
        let deadline = Instant::now() + Duration::from_secs(60);
        let parent = systemd.pid();
        let mut host = Self::Namespaces { systemd, pid: String::new(), _units: units };
        loop {
            if let Self::Namespaces { pid, .. } = &mut host {
                let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
                children.unwrap_or_default().trim().clone_into(pid);
            }
            let mut active = host.command("systemctl");
            let output = active.args(["is-active", "dbus.service"]).output().await.expect("it starts");
            if output.status.success() {
                return host;
            }
            assert!(Instant::now() < deadline, "systemd does not start: {output:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A program where systemd runs.
    pub(super) fn command(&self, program: &str) -> Command {
        let Self::Namespaces { pid, .. } = self else { return Command::new(program) };
        let mut command = Command::new("nsenter");
        command.args(["--target", pid, "--mount", "--pid", "--", program]);
        command
    }

    /// The script by which an agent runs there.
    pub(super) fn shell(&self) -> Option<String> {
        let Self::Namespaces { pid, .. } = self else { return None };
        Some(format!("exec nsenter --target {pid} --mount --pid -- \"$0\" \"$@\""))
    }

    /// Ends it, if the test has started it, and with it all that runs in its namespaces.
    pub(super) async fn end(&mut self) {
        if let Self::Namespaces { systemd, .. } = self {
            systemd.end().await;
            remove_cgroups(&[
                "system.slice/dbus.socket",
                "system.slice/dbus.service",
                "system.slice",
                "init.scope",
            ])
            .await;
        }
    }
}

const UNIT: &str = "[Unit]\nDefaultDependencies=no\n";
