//! Reads quoted strings and heredocs.

use super::cursor::{Cursor, Place};
use super::{SyntaxError, SyntaxErrorKind};

/// Reads a quoted string whose opening quote was consumed already.
pub(super) fn quoted(cursor: &mut Cursor<'_>, start: Place) -> Result<String, SyntaxError> {
    let mut bytes = Vec::new();
    loop {
        match cursor.bump() {
            None | Some('\n') => return Err(start.error(SyntaxErrorKind::OpenString)),
            Some('"') => break,
            Some('$') if cursor.peek() == Some('{') => interpolation(cursor, start, &mut bytes)?,
            Some('\\') => escape(cursor, &mut bytes)?,
            Some(c) => push(&mut bytes, c),
        }
    }
    String::from_utf8(bytes).map_err(|_| start.error(SyntaxErrorKind::NotUtf8))
}

/// Reads an interpolation. In `${…}` nothing is unescaped, and quotes and line breaks are ordinary characters.
fn interpolation(cursor: &mut Cursor<'_>, start: Place, bytes: &mut Vec<u8>) -> Result<(), SyntaxError> {
    bytes.push(b'$');
    let mut depth = 0_usize;
    loop {
        let c = cursor.bump().ok_or_else(|| start.error(SyntaxErrorKind::OpenString))?;
        push(bytes, c);
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(());
        }
    }
}

/// Reads an escape after its backslash. Octal and `\x` escapes are bytes, the others are characters.
fn escape(cursor: &mut Cursor<'_>, bytes: &mut Vec<u8>) -> Result<(), SyntaxError> {
    let place = cursor.place();
    let illegal = || place.error(SyntaxErrorKind::IllegalEscape);
    match cursor.bump().ok_or_else(illegal)? {
        'x' => {
            let value = digits(cursor, 16, 2).ok_or_else(illegal)?;
            bytes.push(u8::try_from(value).map_err(|_| illegal())?);
        }
        c @ '0'..='7' => {
            let high = c.to_digit(8).ok_or_else(illegal)?;
            let low = digits(cursor, 8, 2).ok_or_else(illegal)?;
            bytes.push(u8::try_from(high * 64 + low).map_err(|_| illegal())?);
        }
        c @ ('u' | 'U') => {
            let count = if c == 'u' { 4 } else { 8 };
            let value = digits(cursor, 16, count).ok_or_else(illegal)?;
            // As Go, writes U+FFFD for an escape that names half a surrogate pair.
            let c = char::from_u32(value).or_else(|| (value <= 0xFFFF).then_some('\u{fffd}'));
            push(bytes, c.ok_or_else(illegal)?);
        }
        c => push(bytes, simple_escape(c).ok_or_else(illegal)?),
    }
    Ok(())
}

/// The escapes of one letter that HCL and JSON have in common.
pub(super) fn simple_escape(letter: char) -> Option<char> {
    Some(match letter {
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        '\\' | '"' => letter,
        _ => return None,
    })
}

/// Reads exactly `count` digits; `None` if there are fewer.
pub(super) fn digits(cursor: &mut Cursor<'_>, radix: u32, count: usize) -> Option<u32> {
    let mut value = 0_u32;
    for _ in 0..count {
        let digit = cursor.peek()?.to_digit(radix)?;
        cursor.bump();
        value = value.checked_mul(radix)?.checked_add(digit)?;
    }
    Some(value)
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Reads `<<NAME` or `<<-NAME`, the lines after it, and the line that is NAME alone.
pub(super) fn heredoc(cursor: &mut Cursor<'_>) -> Result<String, SyntaxError> {
    let start = cursor.place();
    let bad = || start.error(SyntaxErrorKind::BadHeredoc);
    cursor.bump();
    if !cursor.eat('<') {
        return Err(bad());
    }
    let unindent = cursor.eat('-');
    let anchor = cursor.eat_while(|c| c == '_' || c.is_alphanumeric());
    if anchor.is_empty() || cursor.line().is_none_or(|rest| !rest.trim_end_matches('\r').is_empty()) {
        return Err(bad());
    }
    let mut lines = Vec::new();
    loop {
        let line = cursor.line().ok_or_else(|| start.error(SyntaxErrorKind::OpenHeredoc))?;
        let bare = line.trim_end_matches('\r');
        if let Some(indent) = bare.strip_suffix(anchor)
            && indent.chars().all(|c| c.is_ascii_whitespace() || c == '\x0b')
        {
            return Ok(join(&lines, indent, unindent));
        }
        lines.push(bare);
    }
}

/// Joins the lines of a heredoc. With `<<-`, the indent of the closing line is removed from each line if all lines
/// have it. Without the dash that indent is kept as text after the last line break, as in HCL.
fn join(lines: &[&str], indent: &str, unindent: bool) -> String {
    let take_off = unindent && lines.iter().all(|line| line.starts_with(indent));
    let mut text = String::new();
    for line in lines {
        text.push_str(if take_off { &line[indent.len()..] } else { line });
        text.push('\n');
    }
    if !unindent {
        text.push_str(indent);
    }
    text
}
