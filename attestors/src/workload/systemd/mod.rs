//! The `systemd` attestor: the unit that a process belongs to, which systemd tells on the system bus (SPIRE,
//! `systemd_posix.go`).
//!
//! systemd derives the unit from the cgroup, so processes of one cgroup share a look, and it holds for a second: whoever
//! calls again and again must not keep the system's first process busy.
//!
//! `GetUnitByPID` is asked, not `GetUnitByPIDFD`, which only newer systemds have. It answers for whatever process has the
//! pid then. That this is the caller's follows afterwards, when the door sees that the caller has not exited meanwhile.

mod bus;
mod message;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use identity::Selector;
use nix::sys::socket::UnixAddr;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::bus::Bus;
pub use self::bus::BusError;
use self::message::{Arguments, Call};
pub use self::message::{FIXED, Head, Malformed, Reply, reply as parse_reply};
use super::looks::Looks;
use crate::container;

/// The `systemd` workload attestor.
#[derive(Debug)]
pub struct Systemd {
    proc: PathBuf,
    addresses: Arc<[UnixAddr]>,
    turns: Arc<Semaphore>,
    looks: Looks<String, Vec<Selector>, SystemdError>,
}

/// Why a process could not be attested. The text is SPIRE's.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// The system bus cannot be used.
    #[error("failed to open dbus connection: {0}")]
    Bus(BusError),
    /// systemd knows no unit of the process, or does not answer.
    #[error("failed to get unit by pid {pid}: {source}")]
    Unit {
        /// The process that systemd was asked about, in the host's pid namespace.
        pid: i32,
        /// What systemd or the bus says.
        source: BusError,
    },
    /// The unit's property cannot be read.
    #[error("error getting value for {name}: {source}")]
    Property {
        /// The property's name.
        name: &'static str,
        /// What systemd or the bus says.
        source: BusError,
    },
    /// systemd answered something else than a text.
    #[error("Returned value for {0} was not a string")]
    NoText(&'static str),
    /// The look took longer than five seconds.
    #[error("systemd did not answer within {}s", LOOK.as_secs())]
    Slow,
    /// The look that this process shared with others has failed.
    #[error("{0}")]
    Shared(Arc<Self>),
}

impl SystemdError {
    /// SPIRE's gRPC code for this error. It appears only in the log.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "Internal"
    }
}

impl Systemd {
    /// Makes an attestor. `addresses` is the system bus's address (`DBUS_SYSTEM_BUS_ADDRESS`); `None` for the usual one.
    /// `proc` is where proc is mounted.
    #[must_use]
    pub fn new(addresses: Option<&str>, proc: &Path) -> Self {
        Self {
            proc: proc.to_owned(),
            addresses: bus::sockets(addresses.unwrap_or(USUAL)).into(),
            turns: Arc::new(Semaphore::new(LOOKS)),
            looks: Looks::default(),
        }
    }

    /// Returns the selectors of a process. The caller must check afterwards that the pid still names that process.
    ///
    /// # Errors
    /// [`SystemdError`].
    pub async fn attest(&self, pid: i32) -> Result<Vec<Selector>, SystemdError> {
        let cgroup = container::read_cgroup(&self.proc, pid).unwrap_or_default();
        if !is_of_unit(&cgroup) {
            return self.look(pid).await;
        }
        let mut answer = self.looks.get(cgroup.clone(), self.look(pid)).await;
        if answer.as_ref().is_err_and(|reason| !reason.is_of(pid)) {
            // The process that was asked about may have exited.
            answer = self.looks.get(cgroup, self.look(pid)).await;
        }
        answer.map(|found| found.to_vec()).map_err(SystemdError::Shared)
    }

    fn look(&self, pid: i32) -> impl Future<Output = Result<Vec<Selector>, SystemdError>> + Send + use<> {
        let (turns, addresses) = (Arc::clone(&self.turns), Arc::clone(&self.addresses));
        async move {
            let look = async {
                let _turn = turns.acquire().await;
                unit(&addresses, pid).await
            };
            timeout(LOOK, look).await.unwrap_or(Err(SystemdError::Slow))
        }
    }
}

impl SystemdError {
    /// Whether another process would hear the same.
    fn is_of(&self, pid: i32) -> bool {
        !matches!(self, Self::Unit { pid: asked, .. } if *asked != pid)
    }
}

/// Whether a process of these cgroups belongs to a unit by its cgroup. A process elsewhere may belong to one all the same,
/// because systemd tracks some by pid, but then its neighbours in the cgroup may not.
fn is_of_unit(cgroup: &str) -> bool {
    let is_unit = |part: &str| part.ends_with(".service") || part.ends_with(".scope");
    container::paths(cgroup).is_ok_and(|paths| paths.iter().any(|path| path.split('/').any(is_unit)))
}

/// Asks systemd for the unit of a process, and for its name and file.
async fn unit(addresses: &[UnixAddr], pid: i32) -> Result<Vec<Selector>, SystemdError> {
    let mut bus = Bus::connect(addresses).await.map_err(SystemdError::Bus)?;
    let call = Call {
        destination: SYSTEMD,
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member: "GetUnitByPID",
        arguments: Arguments::Number(pid.unsigned_abs()),
    };
    let unit = bus.call(&call).await.map_err(|source| SystemdError::Unit { pid, source })?;
    let unit = unit.ok_or(SystemdError::NoText("GetUnitByPID"))?;
    let id = property(&mut bus, &unit, "Id").await?;
    let fragment_path = property(&mut bus, &unit, "FragmentPath").await?;
    let values = [format!("id:{id}"), format!("fragment_path:{fragment_path}")];
    Ok(values.iter().filter_map(|value| Selector::new("systemd", value).ok()).collect())
}

async fn property(bus: &mut Bus, unit: &str, name: &'static str) -> Result<String, SystemdError> {
    let call = Call {
        destination: SYSTEMD,
        path: unit,
        interface: "org.freedesktop.DBus.Properties",
        member: "Get",
        arguments: Arguments::Texts("org.freedesktop.systemd1.Unit", name),
    };
    let text = bus.call(&call).await.map_err(|source| SystemdError::Property { name, source })?;
    text.ok_or(SystemdError::NoText(name))
}

const SYSTEMD: &str = "org.freedesktop.systemd1";
/// The address of the system bus where none is configured. `/var/run` is a link to `/run`, except where one of them is
/// missing in a container.
const USUAL: &str = "unix:path=/var/run/dbus/system_bus_socket;unix:path=/run/dbus/system_bus_socket";
/// How long a look may take. An answer takes a millisecond.
const LOOK: Duration = Duration::from_secs(5);
/// Looks at a time.
const LOOKS: usize = 4;

#[cfg(test)]
mod tests;
