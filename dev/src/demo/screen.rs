//! The output: lines, and on a terminal a table below them that is redrawn in place.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Standard output. Each line or table is written in one piece, so that tasks do not mix their output.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: bool,
    with_table: bool,
    started: Instant,
    drawn: Mutex<Drawn>,
}

/// The table below the last line; empty if there is none.
#[derive(Debug, Default)]
struct Drawn {
    table: String,
}

impl Screen {
    /// The screen. Without `with_table` it prints only lines.
    pub(crate) fn new(with_table: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        Self { terminal, with_table, started: Instant::now(), drawn: Mutex::default() }
    }

    /// The interval at which the table is drawn; `None` if it is not.
    pub(crate) fn table_period(&self) -> Option<Duration> {
        let period = if self.terminal { Duration::from_millis(500) } else { Duration::from_secs(5) };
        self.with_table.then_some(period)
    }

    /// Prints a headline.
    pub(crate) fn title(&self, text: &str) {
        self.line(&self.styled("1", text));
    }

    /// Prints one or several lines.
    pub(crate) fn line(&self, text: &str) {
        let drawn = self.lock();
        self.write(&drawn, &format!("{text}\n"), &drawn.table);
    }

    /// Prints a check that succeeded.
    pub(crate) fn passed(&self, what: &str, took: Duration) {
        self.checked(&self.styled("32", "ok    "), what, took);
    }

    /// Prints a check that failed.
    pub(crate) fn failed(&self, what: &str, took: Duration) {
        self.checked(&self.styled("31", "FAILED"), what, took);
    }

    fn checked(&self, mark: &str, what: &str, took: Duration) {
        let (now, took) = (self.started.elapsed().as_secs_f64(), took.as_secs_f64());
        self.line(&format!("{now:>6.1} s  {mark}  {what} ({took:.1} s)"));
    }

    /// Runs `work`, which takes time and may print itself, and prints it as a check.
    ///
    /// # Errors
    /// The error of `work`.
    pub(crate) fn step<T, E>(&self, what: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let began = Instant::now();
        let done = work()?;
        self.passed(what, began.elapsed());
        Ok(done)
    }

    /// Draws the table over the last one.
    pub(crate) fn table(&self, table: String) {
        let mut drawn = self.lock();
        if self.terminal {
            self.write(&drawn, "", &table);
            drawn.table = table;
        } else {
            self.write(&drawn, &format!("\n{table}\n"), "");
        }
    }

    /// Removes the table from the screen.
    pub(crate) fn clear_table(&self) {
        let mut drawn = self.lock();
        self.write(&drawn, "", "");
        drawn.table.clear();
    }

    /// Leaves the table on the screen and prints later lines below it.
    pub(crate) fn settle(&self) {
        self.lock().table.clear();
    }

    pub(crate) fn styled(&self, style: &str, text: &str) -> String {
        if self.terminal { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Erases the old table, writes `text`, and draws the new table.
    fn write(&self, drawn: &Drawn, text: &str, table: &str) {
        let up = match drawn.table.lines().count() {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        };
        // Lines of the table are cut and not wrapped, because erasing counts them.
        let (cut, wrap) = if self.terminal { ("\x1b[?7l", "\x1b[?7h") } else { ("", "") };
        let mut out = io::stdout().lock();
        let _ = write!(out, "{up}{text}{cut}{table}{wrap}");
        let _ = out.flush();
    }

    fn lock(&self) -> MutexGuard<'_, Drawn> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
