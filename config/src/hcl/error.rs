//! Syntax errors, and what to do about each.

use thiserror::Error;

use super::{MAX_BYTES, MAX_DEPTH};

/// An error in a text that should be HCL 1 or its JSON form. It never quotes a value, because values can be secrets.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}, column {column}: {kind}")]
pub struct SyntaxError {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// The rule that is broken.
    pub kind: SyntaxErrorKind,
}

/// The broken rule, one variant for each.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SyntaxErrorKind {
    /// The text is longer than [`MAX_BYTES`].
    #[error("the text is longer than {MAX_BYTES} bytes; is this the right file?")]
    TooLarge,
    /// The text is nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels; remove some of them")]
    TooDeep,
    /// A character that begins no token.
    #[error("illegal character {0:?}; strings stand in double quotes, and keys are followed by '=' or '{{'")]
    IllegalCharacter(char),
    /// A lone `/`.
    #[error("expected '/' for comment; a comment begins with '#', '//' or '/*'")]
    LoneSlash,
    /// `/*` without `*/`.
    #[error("comment not terminated; close it with '*/'")]
    OpenComment,
    /// A string without its closing quote.
    #[error("literal not terminated; close the string with '\"' on the same line")]
    OpenString,
    /// An unknown `\` sequence.
    #[error("illegal char escape; write '\\\\' for a backslash")]
    IllegalEscape,
    /// Escapes that together are not UTF-8.
    #[error("the escapes of this string are not UTF-8; use \\u escapes")]
    NotUtf8,
    /// `<` that begins no heredoc, or a heredoc with a bad anchor.
    #[error("invalid heredoc; write '<<NAME', a line break, the text, and NAME alone on a line")]
    BadHeredoc,
    /// A heredoc without its anchor line.
    #[error("heredoc not terminated; its name must stand alone on a later line")]
    OpenHeredoc,
    /// `0x` without digits, `1e` and the like.
    #[error("illegal number")]
    IllegalNumber,
    /// An 8 or a 9 after a leading 0.
    #[error("illegal octal number; a leading 0 means octal")]
    IllegalOctal,
    /// A key without `=` or `{`.
    #[error(
        "key '{key}' expected start of object ('{{') or assignment ('='), but found {found}; a value such as 10m needs quotes"
    )]
    KeyWithoutValue {
        /// The key.
        key: String,
        /// What is there instead.
        found: &'static str,
    },
    /// A key with a label has `=` instead of a block: `a b = 1`.
    #[error("key '{key}' has a label, so it must be followed by '{{', not '='")]
    LabelledAssignment {
        /// The key.
        key: String,
    },
    /// There is no value after `=` or in a list.
    #[error("expected a value, but found {found}; strings stand in double quotes")]
    ExpectedValue {
        /// What is there instead.
        found: &'static str,
    },
    /// There is no key where one must be.
    #[error("expected a key, but found {found}")]
    ExpectedKey {
        /// What is there instead.
        found: &'static str,
    },
    /// Two elements of a list without a comma.
    #[error("error parsing list, expected comma or list end, but found {found}")]
    ExpectedComma {
        /// What is there instead.
        found: &'static str,
    },
    /// The text ends inside of a block.
    #[error("the block that begins in line {line} is not closed; add '}}'")]
    OpenBlock {
        /// The line where it begins.
        line: u32,
    },
    /// The text ends inside of a list.
    #[error("the list that begins in line {line} is not closed; add ']'")]
    OpenList {
        /// The line where it begins.
        line: u32,
    },
    /// Something is missing in JSON.
    #[error("JSON: expected {expected}")]
    Json {
        /// What should be there.
        expected: &'static str,
    },
}
