//! One hostile connection, which is replaced when it has ended.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::task::yield_now;
use tokio::time::{Sleep, sleep};

use super::Kind;
use super::frames;
use super::heard::Heard;
use super::scripts::{self, Next, Script};
use crate::envoy::Fleet;
use crate::tally::Tally;

/// Connects, sends the bytes of the kind, and connects again if the agent ends the connection. With `frames`, it sends
/// only this many.
pub(super) async fn live(fleet: Rc<Fleet>, kind: Kind, number: usize, frames: Option<u64>) {
    let mut left = frames;
    loop {
        let (ended, done) = match UnixStream::connect(&fleet.plan.socket).await {
            Ok(socket) => {
                fleet.tally.count(|counts| counts.flood.opened += 1);
                let script = scripts::script(kind, number);
                Hostile::new(socket, script, left, &fleet.tally).live(&mut left).await
            }
            Err(_) => (Ended::Refused, false),
        };
        fleet.tally.count(|counts| match ended {
            Ended::Refused => counts.flood.refused += 1,
            Ended::Closed => counts.flood.closed += 1,
            // The GOAWAY is counted already.
            Ended::ToldToGo | Ended::ByScript => {}
        });
        if frames.is_some() && !(matches!(ended, Ended::ByScript) && left != Some(0)) {
            if !done {
                finish(&fleet.tally);
            }
            return;
        }
        if matches!(ended, Ended::Refused) {
            sleep(AFTER_REFUSAL).await;
        }
    }
}

/// How a connection ended.
enum Ended {
    Refused,
    Closed,
    ToldToGo,
    ByScript,
}

struct Hostile {
    socket: UnixStream,
    script: Box<dyn Script>,
    heard: Heard,
    /// Whether the client has sent the preface, and so speaks HTTP/2.
    greets: bool,
    /// The bytes to write, and how many of them are written.
    out: Vec<u8>,
    written: usize,
    /// The time before which the script sends nothing.
    pause: Option<Pin<Box<Sleep>>>,
    stage: Stage,
    tally: Rc<Tally>,
}

/// The progress of a connection that has a limited number of frames.
#[derive(PartialEq, Eq)]
enum Stage {
    Saying,
    /// All frames are sent, and a PING after them.
    Asking,
    /// The agent has answered the PING, so it has read all frames. The connection stays open, because the memory that
    /// the agent keeps for it is measured.
    Done,
}

impl Hostile {
    fn new(socket: UnixStream, script: Box<dyn Script>, left: Option<u64>, tally: &Rc<Tally>) -> Self {
        let out = script.greeting();
        let stage = if left == Some(0) { Stage::Asking } else { Stage::Saying };
        Self {
            socket,
            script,
            heard: Heard::new(),
            greets: !out.is_empty(),
            out,
            written: 0,
            pause: None,
            stage,
            tally: Rc::clone(tally),
        }
    }

    /// Runs until the connection ends. Also returns whether all frames were sent and answered. `left` is the number of
    /// frames that may still be sent.
    async fn live(mut self, left: &mut Option<u64>) -> (Ended, bool) {
        let ended = self.until_ended(left).await;
        (ended, self.stage == Stage::Done)
    }

    async fn until_ended(&mut self, left: &mut Option<u64>) -> Ended {
        loop {
            if self.written == self.out.len() && self.pause.is_none() && self.refill(left) {
                return Ended::ByScript;
            }
            let reads = self.script.reads() || self.stage != Stage::Saying;
            let interest = match (reads, self.written < self.out.len()) {
                (true, true) => Interest::READABLE | Interest::WRITABLE,
                (false, true) => Interest::WRITABLE,
                // A client that never reads always has something to write, and waits here until it can.
                (_, false) => Interest::READABLE,
            };
            let pause = async {
                match &mut self.pause {
                    Some(pause) => pause.await,
                    None => std::future::pending().await,
                }
            };
            let over = tokio::select! {
                ready = self.socket.ready(interest) => ready.is_err(),
                () = pause => { self.pause = None; false }
            };
            if over || self.read_and_write(reads).is_err() {
                return self.ended();
            }
            yield_now().await;
        }
    }

    /// Gets the next bytes of the script. Returns true if the script ends the connection.
    fn refill(&mut self, left: &mut Option<u64>) -> bool {
        self.out.clear();
        self.written = 0;
        let mut replies = self.heard.replies();
        if self.greets {
            self.out.append(&mut replies);
        }
        match self.stage {
            Stage::Asking if self.heard.ponged => self.done(),
            Stage::Asking | Stage::Done => return false,
            Stage::Saying => {}
        }
        if *left == Some(0) {
            frames::put(&mut self.out, frames::PING, 0, 0, b"finished");
            self.stage = Stage::Asking;
            return false;
        }
        match self.script.next(&mut self.heard) {
            Next::Frames(said) => self.say(&said, left),
            Next::Wait => {}
            Next::Pause(time) => self.pause = Some(Box::pin(sleep(time))),
            Next::Silence if left.is_some() && self.heard.spoken => self.done(),
            Next::Silence => {}
            Next::Over => return true,
        }
        false
    }

    /// Queues the frames of the script, but no more than `left`.
    fn say(&mut self, said: &[u8], left: &mut Option<u64>) {
        let (mut length, mut count) = (0, 0);
        while let Some(frame) = frames::first(&said[length..])
            && left.is_none_or(|left| count < left)
        {
            length += frame.length();
            count += 1;
        }
        self.out.extend_from_slice(&said[..length]);
        if let Some(left) = left {
            *left -= count;
        }
        self.tally.count(|counts| counts.flood.frames += count);
    }

    fn done(&mut self) {
        self.stage = Stage::Done;
        finish(&self.tally);
    }

    fn read_and_write(&mut self, reads: bool) -> io::Result<()> {
        if reads {
            self.read()?;
        }
        while self.written < self.out.len() {
            match self.socket.try_write(&self.out[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads the available bytes.
    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; READ];
        match self.socket.try_read(&mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                self.tally.count(|counts| self.heard.take(&buffer[..read], &mut counts.flood));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads the agent's last frames, which may still be unread, and tells how the connection ended.
    fn ended(&mut self) -> Ended {
        let mut buffer = [0; READ];
        while let Ok(read @ 1..) = self.socket.try_read(&mut buffer) {
            self.tally.count(|counts| self.heard.take(&buffer[..read], &mut counts.flood));
        }
        match (self.heard.told_to_go, self.heard.spoken) {
            (true, _) => Ended::ToldToGo,
            (false, true) => Ended::Closed,
            (false, false) => Ended::Refused,
        }
    }
}

/// Notes that a connection has sent all of its frames, or cannot.
fn finish(tally: &Tally) {
    tally.count(|counts| counts.flood.done += 1);
    tally.nudge.notify_one();
}

const READ: usize = 16 * 1024;
const AFTER_REFUSAL: Duration = Duration::from_millis(10);
