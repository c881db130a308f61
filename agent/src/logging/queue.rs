//! The log lines that wait to be written: in order, bounded in bytes. When the queue is full, the least important lines
//! are dropped first.
//!
//! The queue has no thread, clock or lock. [`super::writer`] adds those.

use std::array;
use std::collections::VecDeque;
use std::mem::size_of;

use tracing::Level;

/// Log lines that wait to be written.
///
/// Each level has its own shelf, so that dropping a line from a full queue needs no search. Each line carries the
/// number of its arrival. The oldest line of all is the one with the lowest number at the front of a shelf.
pub(super) struct Queue {
    /// One shelf per level, the least important first.
    shelves: [Shelf; LEVELS],
    /// The number of the next line.
    arrivals: u64,
    /// The most bytes of all lines, by [`cost`].
    bound: usize,
    /// Lines dropped since the last line that told their number.
    left_out: u64,
}

#[derive(Default)]
struct Shelf {
    lines: VecDeque<Entry>,
    bytes: usize,
}

struct Entry {
    arrival: u64,
    line: String,
}

impl Queue {
    /// An empty queue that never holds more than `bound` bytes.
    pub(super) fn new(bound: usize) -> Self {
        Self { shelves: array::from_fn(|_| Shelf::default()), arrivals: 0, bound, left_out: 0 }
    }

    /// Whether nothing is left to write: no line, and no number of dropped lines.
    pub(super) fn is_empty(&self) -> bool {
        self.left_out == 0 && self.shelves.iter().all(|shelf| shelf.lines.is_empty())
    }

    /// Adds a line. If there is no room, less important lines are dropped: the least important level first, and its
    /// newest line first, because the beginning of a trouble tells more than its repetitions. If that does not suffice,
    /// the line itself is dropped.
    pub(super) fn push(&mut self, level: Level, line: String) {
        let importance = importance(level);
        let needed = cost(&line);
        // Checked first, so that no line is dropped in vain.
        let fixed: usize = self.shelves[importance..].iter().map(|shelf| shelf.bytes).sum();
        if fixed + needed > self.bound {
            self.left_out += 1;
            return;
        }
        while self.bytes() + needed > self.bound {
            let lesser = self.shelves[..importance].iter_mut().find_map(Shelf::drop_newest);
            lesser.expect("the more important lines leave room, so a less important one is there");
            self.left_out += 1;
        }
        self.put(importance, line);
    }

    /// Moves the oldest lines to `batch`, until the next one would make it longer than `most` bytes. A line longer than
    /// that goes alone. If lines were dropped and there is room again, the line that `left_out_line` makes of their
    /// number is queued.
    pub(super) fn take(
        &mut self,
        batch: &mut Vec<u8>,
        most: usize,
        left_out_line: impl FnOnce(u64) -> String,
    ) {
        while let Some(shelf) = self.oldest()
            && let Some(entry) =
                shelf.lines.pop_front_if(|next| batch.is_empty() || batch.len() + next.line.len() <= most)
        {
            shelf.bytes -= cost(&entry.line);
            batch.extend_from_slice(entry.line.as_bytes());
        }
        if self.left_out > 0 {
            let line = left_out_line(self.left_out);
            if self.bytes() + cost(&line) <= self.bound {
                self.left_out = 0;
                // As important as an error, so that no other line displaces it.
                self.put(importance(Level::ERROR), line);
            }
        }
    }

    fn put(&mut self, importance: usize, line: String) {
        let shelf = &mut self.shelves[importance];
        shelf.bytes += cost(&line);
        shelf.lines.push_back(Entry { arrival: self.arrivals, line });
        self.arrivals += 1;
    }

    /// The shelf with the oldest line; `None` if all are empty.
    fn oldest(&mut self) -> Option<&mut Shelf> {
        let filled = self.shelves.iter_mut().filter(|shelf| !shelf.lines.is_empty());
        filled.min_by_key(|shelf| shelf.lines.front().map(|entry| entry.arrival))
    }

    fn bytes(&self) -> usize {
        self.shelves.iter().map(|shelf| shelf.bytes).sum()
    }
}

impl Shelf {
    /// Drops the newest line; `None` if there is none.
    fn drop_newest(&mut self) -> Option<()> {
        let entry = self.lines.pop_back()?;
        self.bytes -= cost(&entry.line);
        Some(())
    }
}

/// The memory that a line takes in the queue, in bytes, not only its length.
fn cost(line: &String) -> usize {
    line.capacity() + size_of::<Entry>()
}

fn importance(level: Level) -> usize {
    match level {
        Level::TRACE => 0,
        Level::DEBUG => 1,
        Level::INFO => 2,
        Level::WARN => 3,
        Level::ERROR => 4,
    }
}

const LEVELS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    /// The cost of a line in these tests: five characters and the end of the line.
    const LINE: usize = 6 + size_of::<Entry>();

    fn push(queue: &mut Queue, level: Level, line: &str) {
        queue.push(level, format!("{line:<5}\n").as_str().to_owned());
        assert!(queue.bytes() <= queue.bound);
    }

    fn take(queue: &mut Queue, most: usize) -> Vec<String> {
        let mut batch = Vec::new();
        queue.take(&mut batch, most, |count| format!("{count} left out\n").as_str().to_owned());
        assert!(queue.bytes() <= queue.bound);
        String::from_utf8(batch).unwrap().lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn lines_of_all_levels_keep_their_order() {
        let mut queue = Queue::new(10 * LINE);
        let levels = [Level::INFO, Level::ERROR, Level::TRACE, Level::INFO, Level::WARN, Level::DEBUG];
        for (level, line) in levels.into_iter().zip(["a", "b", "c", "d", "e", "f"]) {
            push(&mut queue, level, line);
        }
        assert_eq!(take(&mut queue, 12), ["a", "b"]);
        assert_eq!(take(&mut queue, usize::MAX), ["c", "d", "e", "f"]);
        assert!(queue.is_empty() && queue.bytes() == 0);
    }

    #[test]
    fn the_least_important_make_way_the_newest_first() {
        let mut queue = Queue::new(4 * LINE);
        for (level, line) in
            [(Level::DEBUG, "d1"), (Level::INFO, "i1"), (Level::DEBUG, "d2"), (Level::INFO, "i2")]
        {
            push(&mut queue, level, line);
        }
        push(&mut queue, Level::WARN, "w1");
        push(&mut queue, Level::DEBUG, "d3");
        push(&mut queue, Level::ERROR, "e1");
        push(&mut queue, Level::ERROR, "e2");
        push(&mut queue, Level::INFO, "i3");
        assert_eq!(take(&mut queue, usize::MAX), ["i1", "w1", "e1", "e2"]);
        assert_eq!(take(&mut queue, usize::MAX), ["5 left out"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn nothing_makes_way_in_vain() {
        let mut queue = Queue::new(3 * LINE);
        push(&mut queue, Level::DEBUG, "d1");
        push(&mut queue, Level::WARN, "w1");
        push(&mut queue, Level::WARN, "w2");
        queue.push(Level::ERROR, "e".repeat(3 * LINE));
        queue.push(Level::INFO, "i".repeat(LINE + 1));
        assert_eq!(take(&mut queue, usize::MAX), ["d1", "w1", "w2"]);
        assert_eq!(take(&mut queue, usize::MAX), ["2 left out"]);
    }

    #[test]
    fn the_number_waits_for_room_and_is_said_once() {
        let mut queue = Queue::new(2 * LINE);
        push(&mut queue, Level::ERROR, "e1");
        push(&mut queue, Level::ERROR, "e2");
        push(&mut queue, Level::ERROR, "e3");
        assert_eq!(take(&mut queue, 1), ["e1"], "a line longer than the batch goes alone");
        push(&mut queue, Level::ERROR, "e4");
        push(&mut queue, Level::ERROR, "e5");
        assert_eq!(take(&mut queue, usize::MAX), ["e2", "e4"]);
        assert_eq!(take(&mut queue, usize::MAX), ["2 left out"]);
        push(&mut queue, Level::INFO, "i1");
        assert_eq!(take(&mut queue, usize::MAX), ["i1"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_line_longer_than_the_bound_is_left_out() {
        let mut queue = Queue::new(2 * LINE);
        queue.push(Level::ERROR, "x".repeat(2 * LINE));
        assert!(!queue.is_empty(), "the number is still to be said");
        assert!(take(&mut queue, usize::MAX).is_empty());
        assert_eq!(take(&mut queue, usize::MAX), ["1 left out"]);
        assert!(queue.is_empty());
    }
}
