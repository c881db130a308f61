//! Parses HCL 1 and its JSON form into one kind of tree, with line numbers.
//!
//! `cursor` walks over characters, `lexer` makes tokens (`text` reads strings and heredocs), `parser` makes the tree
//! of HCL, `json` that of JSON, `print` writes a tree as HCL.
//!
//! Both forms have the same shape here: `a "b" { … }` becomes `a { b { … } }` (the outer object is marked
//! [`Object::labelled`]), and readers of the tree treat a list of objects like repeated blocks, which has the same
//! effect as HCL's flattening of JSON.
//!
//! Limits are checked first: [`MAX_BYTES`] of text, [`MAX_DEPTH`] levels.

mod cursor;
mod error;
mod json;
mod lexer;
mod parser;
mod print;
mod text;

use std::fmt;

pub use error::{SyntaxError, SyntaxErrorKind};

/// The longest text that is parsed, in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// The deepest nesting of objects, lists and labels that is parsed.
pub const MAX_DEPTH: usize = 64;

/// Parses HCL 1, or JSON if the first character that is not white space is `{`.
///
/// # Errors
/// The first syntax error and its place.
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
    /// Whether it was made of a label (`key "label" { … }`) and not of braces.
    pub labelled: bool,
}

/// One member of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The member's name.
    pub key: Key,
    /// The member's value.
    pub value: Value,
}

/// The name of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The name, without quotes.
    pub name: String,
    /// The line of the file, from 1.
    pub line: u32,
    /// How the name was written.
    pub form: KeyForm,
}

/// How a key was written. spire-agent notices unknown keys only in some of these forms.
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
    /// The line of the file where the value begins, from 1.
    pub line: u32,
    /// The value itself.
    pub kind: Kind,
}

/// A value. Numbers are kept as they are written, because HCL also accepts a number as a string.
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
    /// A list, `[ … ]`.
    List(Vec<Value>),
    /// A block or an object, `{ … }`.
    Object(Object),
}

impl Kind {
    /// The name of the value's kind for messages.
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

// A file can hold tokens and passwords, so the debug form shows only the shape of a tree.
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
