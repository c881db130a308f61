//! `finial top`: a live view of a running agent, by its admin socket.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use proto::inspect::OverviewRequest;
use proto::inspect::inspect_client::InspectClient;
use rustix::termios::tcgetwinsize;
use tonic::transport::Channel;

use super::admin::SOCKET;
use super::client::{self, RpcError};
use super::flags::{FlagSet, Values, duration, output, switch};
use super::inspect::unasked;
use super::print::Format;
use super::{block_on, console, inspect};
use crate::explain::overview::Overview;
use crate::plain::plain;

mod frame;

/// Runs `top`, until it is interrupted. With `-once`, with `-output json`, or when standard output is no terminal, it
/// prints one frame.
pub(super) fn run(values: &Values) -> ExitCode {
    let once = values.switch("once") || values.format() == Format::Json || !io::stdout().is_terminal();
    block_on(async {
        let outcome = if once { print_once(values).await } else { watch(values).await };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => unasked(values, &error),
        }
    })
}

async fn print_once(values: &Values) -> Result<(), RpcError> {
    let mut agent = inspect::client(values).await?;
    let json = ask(&mut agent).await?;
    match values.format() {
        Format::Json => console::out(&json),
        Format::Pretty => {
            let (width, _) = size();
            console::out(frame::frame(&read(&json)?, None, width, usize::MAX).trim_end());
        }
    }
    Ok(())
}

async fn watch(values: &Values) -> Result<(), RpcError> {
    let interval = values.duration("interval").unwrap_or(Duration::from_secs(1)).max(FASTEST);
    let mut agent = inspect::client(values).await?;
    let mut before = None;
    let screen = Screen::open();
    loop {
        let overview = read(&ask(&mut agent).await?)?;
        let (width, height) = size();
        screen.show(&frame::frame(&overview, before.as_ref(), width, height));
        before = Some(overview);
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(()),
            () = tokio::time::sleep(interval) => {}
        }
    }
}

async fn ask(agent: &mut InspectClient<Channel>) -> Result<String, RpcError> {
    let asking = async { Ok::<_, RpcError>(agent.overview(OverviewRequest {}).await?.into_inner().json) };
    client::within(Some(LIMIT), asking).await
}

fn read(json: &str) -> Result<Overview, RpcError> {
    let wrong = |reason: serde_json::Error| {
        let words = format!("the agent's answer cannot be read; is it of another version? {reason}");
        RpcError::Status(tonic::Status::internal(words).into())
    };
    let answer = plain(serde_json::from_str(json).map_err(wrong)?);
    serde_json::from_value(answer).map_err(wrong)
}

/// The terminal's columns and rows; 80 × 24 where there is none.
fn size() -> (usize, usize) {
    let found = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    found.map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()))
}

/// The terminal's second screen. The first comes back when it is dropped.
struct Screen;

impl Screen {
    fn open() -> Self {
        Self::write("\x1b[?1049h\x1b[?25l");
        Self
    }

    fn show(&self, frame: &str) {
        // From the top left corner; each line and the rest of the screen are cleared behind what is written.
        let lines = frame.trim_end().replace('\n', "\x1b[K\r\n");
        Self::write(&format!("\x1b[H{lines}\x1b[K\x1b[J"));
    }

    fn write(text: &str) {
        let mut out = io::stdout();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        Self::write("\x1b[?25h\x1b[?1049l");
    }
}

pub(super) const FLAGS: FlagSet = FlagSet {
    name: "top",
    flags: &[
        duration("interval", 1, "The time between two looks."),
        switch("once", "Prints one frame and ends."),
        output(),
        SOCKET,
    ],
};

/// How long the agent may take.
const LIMIT: Duration = client::CONNECT_LIMIT;
/// The shortest interval.
const FASTEST: Duration = Duration::from_millis(100);
