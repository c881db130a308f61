//! A reader of HCL 1 and of its JSON form, into one tree with line numbers.
//!
//! `cursor` walks characters, `lexer` makes tokens (`text` reads strings and heredocs), `parser`
//! makes the tree of HCL, `json` that of JSON, `print` writes a tree as HCL.
//!
//! Differences of shape end here: `a "b" { … }` becomes `a { b { … } }` (the wrapping object is
//! marked [`Object::labelled`]), and readers of the tree treat a list of objects like repeated
//! blocks, which is what HCL's flattening of JSON amounts to.
//!
//! Limits come before work: [`MAX_BYTES`] of text, [`MAX_DEPTH`] levels.

mod cursor;
mod error;
mod json;
mod lexer;
mod parser;
mod print;
mod text;

use std::fmt;

pub use error::{SyntaxError, SyntaxErrorKind};

/// Longest text that is read.
pub const MAX_BYTES: usize = 1 << 20;

/// Deepest nesting of objects, lists and labels that is read.
pub const MAX_DEPTH: usize = 64;

/// Reads HCL 1, or JSON if the first character that is not white space is `{`.
///
/// # Errors
/// The first thing that cannot be read, and where it is.
pub fn parse(text: &str) -> Result<Object, SyntaxError> {
    if text.len() > MAX_BYTES {
        return Err(SyntaxError { line: 1, column: 1, kind: SyntaxErrorKind::TooLarge });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{') { json::parse(text) } else { parser::parse(text) }
}

/// The members of a block, in the order of the file; keys may repeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// The members.
    pub items: Vec<Item>,
    /// Made of a label (`key "label" { … }`), not of braces.
    pub labelled: bool,
}

/// One member of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name.
    pub key: Key,
    /// What is assigned to the name.
    pub value: Value,
}

/// The name of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The name, without quotes.
    pub name: String,
    /// Line of the file, from 1.
    pub line: u32,
    /// How it was written.
    pub form: KeyForm,
}

/// How a key was written. spire-agent finds unknown keys only among some of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyForm {
    /// `key` in HCL.
    Bare,
    /// `"key"` in HCL.
    Quoted,
    /// `"key":` in JSON.
    Json,
}

/// A value and where it begins.
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    /// Line of the file, from 1.
    pub line: u32,
    /// What it is.
    pub kind: Kind,
}

/// What a value is. Numbers are kept as written: a number is a fine string to HCL.
#[derive(Clone, PartialEq, Eq)]
pub enum Kind {
    /// JSON `null`.
    Null,
    /// `true` or `false`, bare.
    Bool(bool),
    /// A whole number: decimal, `0x` or octal.
    Integer(String),
    /// A number with a point or an exponent.
    Float(String),
    /// A quoted string or a heredoc; `${…}` is kept as written.
    Text(String),
    /// `[ … ]`
    List(Vec<Value>),
    /// `{ … }`
    Object(Object),
}

impl Kind {
    /// What to call it in a message.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false without quotes",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number with a fraction or exponent",
            Self::Text(_) => "a quoted string",
            Self::List(_) => "a list",
            Self::Object(_) => "a block",
        }
    }
}

// A file can hold tokens and passwords, so the debug form of a tree shows its shape only.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::List(values) => f.debug_list().entries(values).finish(),
            Kind::Object(object) => object.fmt(f),
            scalar => write!(f, "<{}, line {}>", scalar.name(), self.line),
        }
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.name())
    }
}

#[cfg(test)]
mod tests;
