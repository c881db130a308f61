//! Parses the JSON form of HCL 1 into the tree.
//!
//! It is written by hand because each value must keep its line, commas before a closing bracket are accepted (as by
//! spire-agent), and `\a`, `\v`, `\x` and octal escapes are refused (as by JSON).

use super::cursor::{Cursor, Place};
use super::{Item, Key, KeyForm, Kind, MAX_DEPTH, Object, SyntaxError, SyntaxErrorKind, Value, text};

pub(super) fn parse(text: &str) -> Result<Object, SyntaxError> {
    let mut reader = Reader { cursor: Cursor::new(text), depth: 0 };
    reader.skip_blanks();
    let start = reader.cursor.place();
    reader.cursor.bump();
    // As by spire-agent, the text after the object is not read.
    reader.object(start)
}

struct Reader<'a> {
    cursor: Cursor<'a>,
    depth: usize,
}

impl Reader<'_> {
    fn skip_blanks(&mut self) {
        self.cursor.eat_while(char::is_whitespace);
    }

    fn expected(&self, expected: &'static str) -> SyntaxError {
        self.cursor.error(SyntaxErrorKind::Json { expected })
    }

    /// Reads the members and the closing brace.
    fn object(&mut self, start: Place) -> Result<Object, SyntaxError> {
        let mut items = Vec::new();
        loop {
            self.skip_blanks();
            let line = self.cursor.place().line;
            match self.cursor.peek() {
                Some('}') => break,
                Some('"') => {}
                None => return Err(start.error(SyntaxErrorKind::OpenBlock { line: start.line })),
                Some(_) => return Err(self.expected("a key in double quotes, or '}'")),
            }
            let name = self.string()?;
            self.skip_blanks();
            if !self.cursor.eat(':') {
                return Err(self.expected("':' after the key"));
            }
            let key = Key { name, line, form: KeyForm::Json };
            items.push(Item { key, value: self.value()? });
            self.skip_blanks();
            if !self.cursor.eat(',') && !matches!(self.cursor.peek(), Some('}') | None) {
                return Err(self.expected("',' or '}' after the value"));
            }
        }
        self.cursor.bump();
        Ok(Object { items, labelled: false })
    }

    fn list(&mut self, start: Place) -> Result<Vec<Value>, SyntaxError> {
        let mut values = Vec::new();
        loop {
            self.skip_blanks();
            match self.cursor.peek() {
                Some(']') => break,
                None => return Err(start.error(SyntaxErrorKind::OpenList { line: start.line })),
                Some(_) => {}
            }
            values.push(self.value()?);
            self.skip_blanks();
            if !self.cursor.eat(',') && !matches!(self.cursor.peek(), Some(']') | None) {
                return Err(self.expected("',' or ']' after the value"));
            }
        }
        self.cursor.bump();
        Ok(values)
    }

    fn value(&mut self) -> Result<Value, SyntaxError> {
        self.skip_blanks();
        let start = self.cursor.place();
        let kind = match self.cursor.peek() {
            Some('"') => Kind::Text(self.string()?),
            Some('{' | '[') if self.depth + 1 >= MAX_DEPTH => {
                return Err(start.error(SyntaxErrorKind::TooDeep));
            }
            Some(bracket @ ('{' | '[')) => {
                self.cursor.bump();
                self.depth += 1;
                let kind = if bracket == '{' {
                    Kind::Object(self.object(start)?)
                } else {
                    Kind::List(self.list(start)?)
                };
                self.depth -= 1;
                kind
            }
            Some(c) if c == '-' || c.is_ascii_digit() => self.number()?,
            _ => self.word()?,
        };
        Ok(Value { line: start.line, kind })
    }

    fn word(&mut self) -> Result<Kind, SyntaxError> {
        let place = self.cursor.place();
        match self.cursor.eat_while(char::is_alphanumeric) {
            "true" => Ok(Kind::Bool(true)),
            "false" => Ok(Kind::Bool(false)),
            "null" => Ok(Kind::Null),
            _ => Err(place.error(SyntaxErrorKind::Json { expected: "a value" })),
        }
    }

    fn number(&mut self) -> Result<Kind, SyntaxError> {
        let place = self.cursor.place();
        let written =
            self.cursor.eat_while(|c| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E'));
        let digits = written.trim_start_matches('-');
        let leading_zero = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
        if leading_zero || written.parse::<f64>().is_err() {
            return Err(place.error(SyntaxErrorKind::IllegalNumber));
        }
        Ok(match written.contains(['.', 'e', 'E']) {
            true => Kind::Float(written.to_owned()),
            false => Kind::Integer(written.to_owned()),
        })
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        let start = self.cursor.place();
        self.cursor.bump();
        let mut string = String::new();
        loop {
            match self.cursor.bump() {
                None | Some('\n') => return Err(start.error(SyntaxErrorKind::OpenString)),
                Some('"') => return Ok(string),
                Some('\\') => string.push(self.escape()?),
                Some(c) => string.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        let place = self.cursor.place();
        let illegal = || place.error(SyntaxErrorKind::IllegalEscape);
        match self.cursor.bump().ok_or_else(illegal)? {
            'u' => {
                let unit = text::digits(&mut self.cursor, 16, 4).ok_or_else(illegal)?;
                Ok(self.character(unit))
            }
            '/' => Ok('/'),
            'a' | 'v' => Err(illegal()),
            letter => text::simple_escape(letter).ok_or_else(illegal),
        }
    }

    /// Joins both halves of a surrogate pair. Half a pair becomes U+FFFD.
    fn character(&mut self, unit: u32) -> char {
        let paired = (0xD800..0xDC00).contains(&unit)
            && self.cursor.peek() == Some('\\')
            && self.cursor.peek_second() == Some('u');
        if !paired {
            return char::from_u32(unit).unwrap_or('\u{fffd}');
        }
        self.cursor.bump();
        self.cursor.bump();
        let low = text::digits(&mut self.cursor, 16, 4).unwrap_or_default();
        let joined =
            (0xDC00..0xE000).contains(&low).then(|| 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00));
        joined.and_then(char::from_u32).unwrap_or('\u{fffd}')
    }
}
