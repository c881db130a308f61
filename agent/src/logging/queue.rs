//! The lines that wait to be written: in order, bounded in bytes, and the least important leave first.
//!
//! Pure: no thread, no clock, no lock. [`super::writer`] adds those.

use std::array;
use std::collections::VecDeque;
use std::mem::size_of;

use tracing::Level;

/// Lines that wait to be written.
///
/// One shelf per level, so that a full queue costs the thread that logs no search. Each line carries the number of its
/// arrival: the lowest among the fronts of the shelves is the oldest line of all.
pub(super) struct Queue {
    /// The least important first.
    shelves: [Shelf; LEVELS],
    arrivals: u64,
    bound: usize,
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
    /// An empty queue, which never holds more than `bound` bytes.
    pub(super) fn new(bound: usize) -> Self {
        Self { shelves: array::from_fn(|_| Shelf::default()), arrivals: 0, bound, left_out: 0 }
    }

    /// Whether nothing is left to write: neither a line nor the number of those left out.
    pub(super) fn is_empty(&self) -> bool {
        self.left_out == 0 && self.shelves.iter().all(|shelf| shelf.lines.is_empty())
    }

    /// Adds a line. Where there is no room, lines less important than it make way, the newest of the least important
    /// first: how a trouble began tells more than its repetitions. If they do not suffice, the line itself is left out.
    pub(super) fn push(&mut self, level: Level, line: String) {
        let importance = importance(level);
        let needed = cost(&line);
        // Asked first, so that no line makes way in vain.
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

    /// Moves the oldest lines to `batch`, until the next would make it longer than `most` bytes; a line longer than that
    /// goes alone. Where lines were left out and there is room again, the line that `say` makes of their number is
    /// queued.
    pub(super) fn take(&mut self, batch: &mut Vec<u8>, most: usize, say: impl FnOnce(u64) -> String) {
        while let Some(shelf) = self.oldest()
            && let Some(entry) =
                shelf.lines.pop_front_if(|next| batch.is_empty() || batch.len() + next.line.len() <= most)
        {
            shelf.bytes -= cost(&entry.line);
            batch.extend_from_slice(entry.line.as_bytes());
        }
        if self.left_out > 0 {
            let line = say(self.left_out);
            if self.bytes() + cost(&line) <= self.bound {
                self.left_out = 0;
                // As important as an error, so that nothing pushes it out again.
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

    /// The shelf that has the oldest line.
    fn oldest(&mut self) -> Option<&mut Shelf> {
        let filled = self.shelves.iter_mut().filter(|shelf| !shelf.lines.is_empty());
        filled.min_by_key(|shelf| shelf.lines.front().map(|entry| entry.arrival))
    }

    fn bytes(&self) -> usize {
        self.shelves.iter().map(|shelf| shelf.bytes).sum()
    }
}

impl Shelf {
    fn drop_newest(&mut self) -> Option<()> {
        let entry = self.lines.pop_back()?;
        self.bytes -= cost(&entry.line);
        Some(())
    }
}

/// What a line holds of memory, not only how long it is.
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

    /// Of a test's line: five characters and the end of the line.
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
