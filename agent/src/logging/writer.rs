//! The thread that writes the log. The thread that serves never waits for a disk or for a reader of the log.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::Level;

use super::queue::Queue;

/// The target of the log lines: a file or standard output.
pub(super) type Sink = Box<dyn Write + Send>;

/// The handle of the writing thread: a queue that takes lines and never blocks.
pub(super) struct Writer {
    state: Mutex<State>,
    /// Signalled when the thread has something to do.
    work: Condvar,
    /// Signalled when all lines are written.
    written: Condvar,
    /// Makes the line that tells how many lines were left out.
    left_out_line: fn(u64) -> String,
}

struct State {
    queue: Queue,
    /// The new target, from the next batch on.
    sink: Option<Sink>,
    /// Whether the thread writes a batch. It then looks at the queue when it is done, and needs no wake-up.
    busy: bool,
}

impl Writer {
    /// Starts the thread, which lives as long as the process.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(super) fn start(sink: Sink, bound: usize, left_out_line: fn(u64) -> String) -> io::Result<Arc<Self>> {
        let state = State { queue: Queue::new(bound), sink: None, busy: false };
        let (work, written) = (Condvar::new(), Condvar::new());
        let writer = Arc::new(Self { state: Mutex::new(state), work, written, left_out_line });
        let shared = Arc::clone(&writer);
        thread::Builder::new().name("log".into()).stack_size(STACK).spawn(move || shared.write(sink))?;
        Ok(writer)
    }

    /// Queues a line. If the queue is full, a line is left out.
    pub(super) fn push(&self, level: Level, line: String) {
        let mut state = self.lock();
        state.queue.push(level, line);
        let idle = !state.busy;
        drop(state);
        if idle {
            self.work.notify_one();
        }
    }

    /// Writes to `sink` from the next batch on. Lines that wait already go there too, but not the batch that is being
    /// written.
    pub(super) fn switch(&self, sink: Sink) {
        let replaced = self.lock().sink.replace(sink);
        self.work.notify_one();
        // Closed after the lock is released, because closing a file may wait for a disk.
        drop(replaced);
    }

    /// Waits until every line is written, but no longer than `timeout`.
    pub(super) fn flush(&self, timeout: Duration) {
        let unwritten = |state: &mut State| state.busy || !state.queue.is_empty();
        drop(self.written.wait_timeout_while(self.lock(), timeout, unwritten));
    }

    fn write(&self, mut sink: Sink) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            if let Some(next) = self.next(&mut batch) {
                sink = next;
            }
            // A full disk or a reader that has gone must not stop the agent.
            let _ = sink.write_all(&batch);
            batch.clear();
            batch.shrink_to(BATCH);
        }
    }

    /// Waits for lines or a new sink. Puts the lines into `batch` and returns the sink, if there is a new one.
    fn next(&self, batch: &mut Vec<u8>) -> Option<Sink> {
        let mut state = self.lock();
        state.busy = false;
        if state.queue.is_empty() {
            self.written.notify_all();
        }
        let nothing = |state: &mut State| state.queue.is_empty() && state.sink.is_none();
        let mut state = self.work.wait_while(state, nothing).unwrap_or_else(PoisonError::into_inner);
        state.busy = true;
        state.queue.take(batch, BATCH, self.left_out_line);
        mem::take(&mut state.sink)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The most bytes of one write: as many as a pipe takes whole, so that lines of several processes do not mix.
const BATCH: usize = 4096;

/// Stack size of the thread in bytes. It is small because the thread opens nothing, parses nothing and calls no
/// handler.
const STACK: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    fn left_out_line(count: u64) -> String {
        format!("count={count}\n")
    }

    fn start(sink: impl Write + Send + 'static) -> Arc<Writer> {
        Writer::start(Box::new(sink), 8 * 1024, left_out_line).unwrap()
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_nobody_up() {
        // Ten times as many lines as a pipe, a batch and the queue hold together.
        const LINES: u64 = 8000;
        let (reader, pipe) = io::pipe().unwrap();
        let writer = start(pipe);
        for number in 0..LINES {
            writer.push(Level::INFO, format!("{number:0>99}\n"));
        }
        writer.push(Level::ERROR, "stopped\n".to_owned());
        writer.flush(Duration::ZERO);
        let (mut numbers, mut left_out, mut stopped) = (Vec::new(), 0, false);
        let mut lines = BufReader::new(reader).lines();
        // Ends only if each line is either read or counted.
        while numbers.len() as u64 + left_out < LINES || !stopped {
            let line = lines.next().unwrap().unwrap();
            match line.strip_prefix("count=") {
                Some(count) => left_out += count.parse::<u64>().unwrap(),
                None if line == "stopped" => stopped = true,
                None => numbers.push(line.parse::<u64>().unwrap()),
            }
        }
        assert!(left_out > LINES / 2);
        // The queue has room for these even if the thread has not begun yet.
        assert_eq!(numbers[..20], (0..20).collect::<Vec<_>>());
        assert!(numbers.is_sorted());
    }

    #[test]
    fn a_reader_that_has_gone_is_survived() {
        let (reader, pipe) = io::pipe().unwrap();
        let writer = start(pipe);
        drop(reader);
        writer.push(Level::INFO, "lost\n".to_owned());
        writer.flush(LONG);
        assert!(writer.lock().queue.is_empty());
        let (mut reader, pipe) = io::pipe().unwrap();
        writer.switch(Box::new(pipe));
        writer.push(Level::INFO, "written\n".to_owned());
        let mut line = [0; 8];
        reader.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"written\n");
    }

    #[test]
    fn what_is_pushed_after_a_switch_goes_to_the_new_sink() {
        let (mut old, pipe) = io::pipe().unwrap();
        let writer = start(pipe);
        writer.push(Level::INFO, "one\n".to_owned());
        writer.flush(LONG);
        let (mut new, pipe) = io::pipe().unwrap();
        writer.switch(Box::new(pipe));
        writer.push(Level::INFO, "two\n".to_owned());
        let mut line = [0; 4];
        new.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"two\n");
        let mut rest = String::new();
        old.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "one\n", "and the old sink is closed");
    }
}
