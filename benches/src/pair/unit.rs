//! What systemd does for a unit with a socket unit and a descriptor store: it passes the listening socket and all that the
//! agent has stored (sd_listen_fds(3)), takes what the agent stores (sd_notify(3)), and starts it again.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use holder::{Channel, Message, Received};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::sleep;

use super::{Node, Upstream};
use crate::running::Outcome;

/// The unit. Dropping it ends its agent.
#[derive(Debug)]
pub struct Unit {
    socket: UnixListener,
    notify: PathBuf,
    store: Arc<Mutex<Store>>,
    child: Child,
}

#[derive(Debug)]
struct Store {
    channel: Channel,
    held: Vec<(String, OwnedFd)>,
}

impl Unit {
    /// Opens the socket, and starts the agent with it.
    ///
    /// # Errors
    /// Those of bind(2), and if the agent cannot be started.
    pub fn start(node: &Node<impl Upstream>) -> Outcome<Self> {
        let socket = UnixListener::bind(node.path("api.sock"))?;
        let notify = node.path("notify.sock");
        let channel = Channel::from(OwnedFd::from(UnixDatagram::bind(&notify)?));
        let store = Arc::new(Mutex::new(Store { channel, held: Vec::new() }));
        let reader = Arc::downgrade(&store);
        std::thread::spawn(move || {
            while let Some(store) = reader.upgrade() {
                store.lock().unwrap_or_else(PoisonError::into_inner).read();
                drop(store);
                std::thread::sleep(LOOK);
            }
        });
        let child = start(node, &socket, &notify, &store)?;
        Ok(Self { socket, notify, store, child })
    }

    /// Ends the agent by a signal, and starts it again after systemd's default of 100 ms (`RestartSec=`).
    ///
    /// # Errors
    /// If there is no agent to end, or it cannot be started.
    pub async fn restart(&mut self, node: &Node<impl Upstream>, signal: Signal) -> Outcome<()> {
        let pid = self.child.id().ok_or("the agent has ended")?;
        kill(Pid::from_raw(i32::try_from(pid)?), signal)?;
        self.child.wait().await?;
        sleep(RESTART).await;
        self.child = start(node, &self.socket, &self.notify, &self.store)?;
        Ok(())
    }
}

fn start(
    node: &Node<impl Upstream>,
    socket: &UnixListener,
    notify: &PathBuf,
    store: &Mutex<Store>,
) -> Outcome<Child> {
    let (mut names, mut descriptors) = (vec![SOCKET.to_owned()], vec![socket.try_clone()?.into()]);
    let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
    // What the last process has sent before its end.
    store.read();
    for (name, descriptor) in &store.held {
        names.push(name.clone());
        descriptors.push(descriptor.try_clone()?);
    }
    drop(store);
    let log = std::fs::OpenOptions::new().create(true).append(true).open(node.path("log"))?;
    let mut command = node.conf().command(&node.program(), "run", &node.path(""));
    command.args(["-logLevel", "INFO"]).stdout(log.try_clone()?).stderr(log);
    command.env("NOTIFY_SOCKET", notify).env_remove("LISTEN_PID");
    command.env("LISTEN_FDS", descriptors.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    let mappings = (3..).zip(descriptors).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
    command.as_std_mut().fd_mappings(mappings.collect())?;
    Ok(command.spawn()?)
}

impl Store {
    /// Takes all messages that have come.
    fn read(&mut self) {
        while let Ok(Some(Received { text, descriptors })) = self.channel.receive() {
            match Message::parse(&text) {
                Some(Message::Store(name)) => {
                    self.held.extend(descriptors.into_iter().map(|descriptor| (name.clone(), descriptor)));
                }
                Some(Message::Remove(name)) => self.held.retain(|(held, _)| *held != name),
                Some(Message::Ready) | None => {}
            }
        }
    }
}

/// The name of the socket unit's descriptor.
const SOCKET: &str = "finial.socket";
const LOOK: Duration = Duration::from_millis(2);
const RESTART: Duration = Duration::from_millis(100);
