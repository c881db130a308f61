//! Parses the tokens of HCL 1 into the tree.

use super::lexer::{Lexer, Token, TokenKind};
use super::{Item, Key, KeyForm, Kind, MAX_DEPTH, Object, SyntaxError, SyntaxErrorKind, Value};

pub(super) fn parse(text: &str) -> Result<Object, SyntaxError> {
    Parser { lexer: Lexer::new(text), ahead: None, depth: 0 }.items(None)
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    ahead: Option<Token>,
    depth: usize,
}

impl Parser<'_> {
    /// Reads members up to the end of the text, or of the block that was opened in line `opened`.
    fn items(&mut self, opened: Option<u32>) -> Result<Object, SyntaxError> {
        let mut items = Vec::new();
        loop {
            let token = self.next()?;
            match (token.kind, opened) {
                (TokenKind::RightBrace, Some(_)) | (TokenKind::End, None) => break,
                (TokenKind::End, Some(line)) => {
                    return Err(token.place.error(SyntaxErrorKind::OpenBlock { line }));
                }
                (TokenKind::Ident(name), _) => {
                    let key = Key { name, line: token.place.line, form: KeyForm::Bare };
                    items.push(self.item(key)?);
                }
                (TokenKind::Text(name), _) => {
                    let key = Key { name, line: token.place.line, form: KeyForm::Quoted };
                    items.push(self.item(key)?);
                }
                (other, _) => {
                    return Err(token.place.error(SyntaxErrorKind::ExpectedKey { found: other.name() }));
                }
            }
            self.skip_comma()?;
        }
        Ok(Object { items, labelled: false })
    }

    /// Reads a member whose first key was read already.
    fn item(&mut self, key: Key) -> Result<Item, SyntaxError> {
        let mut labels = Vec::new();
        loop {
            let token = self.next()?;
            let line = token.place.line;
            match token.kind {
                TokenKind::Assign if labels.is_empty() => {
                    let token = self.next()?;
                    return Ok(Item { key, value: self.value(token)? });
                }
                TokenKind::Assign => {
                    return Err(token.place.error(SyntaxErrorKind::LabelledAssignment { key: key.name }));
                }
                TokenKind::LeftBrace => {
                    self.depth += labels.len();
                    let value = self.value(Token { kind: TokenKind::LeftBrace, place: token.place })?;
                    self.depth -= labels.len();
                    return Ok(Item { key, value: wrap(labels, value) });
                }
                TokenKind::Ident(name) => labels.push(Key { name, line, form: KeyForm::Bare }),
                TokenKind::Text(name) => labels.push(Key { name, line, form: KeyForm::Quoted }),
                other => {
                    let kind = SyntaxErrorKind::KeyWithoutValue { key: key.name, found: other.name() };
                    return Err(token.place.error(kind));
                }
            }
            if self.depth + labels.len() > MAX_DEPTH {
                return Err(token.place.error(SyntaxErrorKind::TooDeep));
            }
        }
    }

    fn value(&mut self, token: Token) -> Result<Value, SyntaxError> {
        let line = token.place.line;
        let kind = match token.kind {
            TokenKind::Bool(value) => Kind::Bool(value),
            TokenKind::Integer(text) => Kind::Integer(text),
            TokenKind::Float(text) => Kind::Float(text),
            TokenKind::Text(text) => Kind::Text(text),
            TokenKind::LeftBrace | TokenKind::LeftBracket if self.depth == MAX_DEPTH => {
                return Err(token.place.error(SyntaxErrorKind::TooDeep));
            }
            TokenKind::LeftBrace => {
                self.depth += 1;
                let object = self.items(Some(line))?;
                self.depth -= 1;
                Kind::Object(object)
            }
            TokenKind::LeftBracket => {
                self.depth += 1;
                let values = self.list(line)?;
                self.depth -= 1;
                Kind::List(values)
            }
            other => return Err(token.place.error(SyntaxErrorKind::ExpectedValue { found: other.name() })),
        };
        Ok(Value { line, kind })
    }

    fn list(&mut self, opened: u32) -> Result<Vec<Value>, SyntaxError> {
        let mut values = Vec::new();
        let mut separated = true;
        loop {
            let token = self.next()?;
            match token.kind {
                TokenKind::RightBracket => return Ok(values),
                TokenKind::Comma => separated = true,
                TokenKind::End => {
                    return Err(token.place.error(SyntaxErrorKind::OpenList { line: opened }));
                }
                other if !separated => {
                    return Err(token.place.error(SyntaxErrorKind::ExpectedComma { found: other.name() }));
                }
                kind => {
                    values.push(self.value(Token { kind, place: token.place })?);
                    separated = false;
                }
            }
        }
    }

    fn skip_comma(&mut self) -> Result<(), SyntaxError> {
        let token = self.next()?;
        if !matches!(token.kind, TokenKind::Comma) {
            self.ahead = Some(token);
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Token, SyntaxError> {
        match self.ahead.take() {
            Some(token) => Ok(token),
            None => self.lexer.next(),
        }
    }
}

/// Makes the objects of labels: `a "b" "c" { … }` means `a { b { c { … } } }`.
fn wrap(labels: Vec<Key>, inner: Value) -> Value {
    labels.into_iter().rev().fold(inner, |value, key| Value {
        line: key.line,
        kind: Kind::Object(Object { items: vec![Item { key, value }], labelled: true }),
    })
}
