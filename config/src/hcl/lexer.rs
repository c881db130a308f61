//! Splits HCL 1 text into tokens.

use super::cursor::{Cursor, Place};
use super::{SyntaxError, SyntaxErrorKind, text};

#[derive(Debug)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) place: Place,
}

#[derive(Debug)]
pub(super) enum TokenKind {
    Ident(String),
    Bool(bool),
    Integer(String),
    Float(String),
    Text(String),
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    Comma,
    Assign,
    End,
}

impl TokenKind {
    /// The name of the token's kind for messages, which never quote its content.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Ident(_) => "a name",
            Self::Bool(_) => "true or false",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::LeftBrace => "'{'",
            Self::RightBrace => "'}'",
            Self::LeftBracket => "'['",
            Self::RightBracket => "']'",
            Self::Comma => "','",
            Self::Assign => "'='",
            Self::End => "the end of the file",
        }
    }
}

#[derive(Debug)]
pub(super) struct Lexer<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { cursor: Cursor::new(text) }
    }

    pub(super) fn next(&mut self) -> Result<Token, SyntaxError> {
        self.skip_blanks()?;
        let place = self.cursor.place();
        let kind = match self.cursor.peek() {
            None => TokenKind::End,
            Some(c) if begins_ident(c) => self.ident(),
            Some(c) if c.is_ascii_digit() || c == '.' || c == '-' => self.number()?,
            Some('"') => {
                self.cursor.bump();
                TokenKind::Text(text::quoted(&mut self.cursor, place)?)
            }
            Some('<') => TokenKind::Text(text::heredoc(&mut self.cursor)?),
            Some(c) => self.sign(c)?,
        };
        Ok(Token { kind, place })
    }

    fn sign(&mut self, c: char) -> Result<TokenKind, SyntaxError> {
        let kind = match c {
            '{' => TokenKind::LeftBrace,
            '}' => TokenKind::RightBrace,
            '[' => TokenKind::LeftBracket,
            ']' => TokenKind::RightBracket,
            ',' => TokenKind::Comma,
            '=' => TokenKind::Assign,
            other => return Err(self.cursor.error(SyntaxErrorKind::IllegalCharacter(other))),
        };
        self.cursor.bump();
        Ok(kind)
    }

    fn skip_blanks(&mut self) -> Result<(), SyntaxError> {
        loop {
            self.cursor.eat_while(|c| matches!(c, ' ' | '\t' | '\r' | '\n'));
            match self.cursor.peek() {
                Some('#') => drop(self.cursor.line()),
                Some('/') => self.comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn comment(&mut self) -> Result<(), SyntaxError> {
        let place = self.cursor.place();
        self.cursor.bump();
        match self.cursor.bump() {
            Some('/') => drop(self.cursor.line()),
            Some('*') => loop {
                match self.cursor.bump() {
                    None => return Err(place.error(SyntaxErrorKind::OpenComment)),
                    Some('*') if self.cursor.eat('/') => break,
                    Some(_) => {}
                }
            },
            _ => return Err(place.error(SyntaxErrorKind::LoneSlash)),
        }
        Ok(())
    }

    fn ident(&mut self) -> TokenKind {
        match self.cursor.eat_while(continues_ident) {
            "true" => TokenKind::Bool(true),
            "false" => TokenKind::Bool(false),
            name => TokenKind::Ident(name.to_owned()),
        }
    }

    fn number(&mut self) -> Result<TokenKind, SyntaxError> {
        let place = self.cursor.place();
        let mut written = String::new();
        if self.cursor.eat('-') {
            written.push('-');
        }
        let digits = self.cursor.eat_while(|c| c.is_ascii_digit());
        written.push_str(digits);
        if digits == "0" && matches!(self.cursor.peek(), Some('x' | 'X')) {
            return self.hexadecimal(written);
        }
        let mut float = false;
        if self.cursor.eat('.') {
            float = true;
            written.push('.');
            let fraction = self.cursor.eat_while(|c| c.is_ascii_digit());
            written.push_str(fraction);
            if digits.is_empty() && fraction.is_empty() {
                return Err(place.error(SyntaxErrorKind::IllegalCharacter('.')));
            }
        } else if digits.is_empty() {
            return Err(place.error(SyntaxErrorKind::IllegalCharacter('-')));
        }
        if matches!(self.cursor.peek(), Some('e' | 'E')) {
            float = true;
            self.exponent(&mut written)?;
        }
        if float {
            return Ok(TokenKind::Float(written));
        }
        if digits.len() > 1 && digits.starts_with('0') && digits.contains(['8', '9']) {
            return Err(place.error(SyntaxErrorKind::IllegalOctal));
        }
        Ok(TokenKind::Integer(written))
    }

    fn hexadecimal(&mut self, mut written: String) -> Result<TokenKind, SyntaxError> {
        self.cursor.bump();
        let digits = self.cursor.eat_while(|c| c.is_ascii_hexdigit());
        if digits.is_empty() {
            return Err(self.cursor.error(SyntaxErrorKind::IllegalNumber));
        }
        written.push('x');
        written.push_str(digits);
        Ok(TokenKind::Integer(written))
    }

    fn exponent(&mut self, written: &mut String) -> Result<(), SyntaxError> {
        written.extend(self.cursor.bump());
        if matches!(self.cursor.peek(), Some('+' | '-')) {
            written.extend(self.cursor.bump());
        }
        let digits = self.cursor.eat_while(|c| c.is_ascii_digit());
        if digits.is_empty() {
            return Err(self.cursor.error(SyntaxErrorKind::IllegalNumber));
        }
        written.push_str(digits);
        Ok(())
    }
}

fn begins_ident(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

fn continues_ident(c: char) -> bool {
    begins_ident(c) || c.is_numeric() || c == '-' || c == '.'
}
