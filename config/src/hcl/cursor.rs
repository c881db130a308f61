//! Walks over the characters of a text and counts lines and columns.

use super::{SyntaxError, SyntaxErrorKind};

/// A place in the text, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl Place {
    pub(super) fn error(self, kind: SyntaxErrorKind) -> SyntaxError {
        SyntaxError { line: self.line, column: self.column, kind }
    }
}

#[derive(Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a str,
    place: Place,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text, place: Place { line: 1, column: 1 } }
    }

    /// The place of the next character.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    pub(super) fn error(&self, kind: SyntaxErrorKind) -> SyntaxError {
        self.place.error(kind)
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub(super) fn peek_second(&self) -> Option<char> {
        self.rest.chars().nth(1)
    }

    pub(super) fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        if c == '\n' {
            self.place.line += 1;
            self.place.column = 1;
        } else {
            self.place.column += 1;
        }
        Some(c)
    }

    pub(super) fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.bump();
        }
        found
    }

    pub(super) fn eat_while(&mut self, accepts: impl Fn(char) -> bool) -> &'a str {
        let whole = self.rest;
        while self.peek().is_some_and(&accepts) {
            self.bump();
        }
        &whole[..whole.len() - self.rest.len()]
    }

    /// Consumes the rest of this line and its line break, and returns it without the latter. `None` at the end of the
    /// text.
    pub(super) fn line(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let line = self.eat_while(|c| c != '\n');
        self.bump();
        Some(line)
    }
}
