//! RE2's regular expressions, as far as the `regex` crate reads them in the same way.
//!
//! An expression that one of the two reads differently is refused with a reason: a verdict on another expression is
//! worse than none.

use regex::bytes::Regex;
use regex_syntax::ast::{
    self, AssertionKind, Ast, ClassSetBinaryOp, ClassSetItem, Flag, Flags, FlagsItemKind, GroupKind,
    HexLiteralKind, Literal, LiteralKind, RepetitionKind, RepetitionRange,
};

/// Why a regular expression cannot be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("regular expression {pattern:?}: {reason}")]
pub struct PatternError {
    /// The expression.
    pub pattern: String,
    /// The reason in words.
    pub reason: String,
}

/// Compiles an expression that must match the whole text (`RE2::FullMatch`).
pub(super) fn compile(pattern: &str) -> Result<Regex, PatternError> {
    let refuse = |reason: String| PatternError { pattern: pattern.to_owned(), reason };
    if pattern.len() > LONGEST {
        return Err(refuse(format!("longer than {LONGEST} bytes")));
    }
    // It is parsed before it is wrapped, because `a)|(b` would become another expression.
    let parsed = ast::parse::ParserBuilder::new().nest_limit(NESTING).build().parse(pattern);
    let parsed = parsed.map_err(|error| refuse(error.kind().to_string()))?;
    ast::visit(&parsed, Dialect::default()).map_err(|difference| refuse(difference.to_owned()))?;
    // Classes such as \w are ASCII in RE2.
    let whole = regex::bytes::RegexBuilder::new(&format!(r"\A(?:{pattern})\z"))
        .unicode(false)
        .size_limit(MEMORY)
        .build();
    whole.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => refuse("needs too much memory".to_owned()),
        other => refuse(other.to_string().lines().last().unwrap_or_default().to_owned()),
    })
}

/// Finds parts of an expression that RE2 refuses or reads differently.
#[derive(Default)]
struct Dialect {
    /// For each open repetition: its count multiplied by those of the repetitions around it.
    counts: Vec<u64>,
}

impl ast::Visitor for Dialect {
    type Output = ();
    type Err = &'static str;

    fn finish(self) -> Result<(), Self::Err> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), Self::Err> {
        match ast {
            Ast::Flags(set) => flags(&set.flags),
            Ast::Group(group) => match &group.kind {
                GroupKind::NonCapturing(set) => flags(set),
                _ => Ok(()),
            },
            Ast::Literal(one) => literal(one),
            Ast::ClassUnicode(_) => Err(UNICODE),
            Ast::Assertion(assertion) => match assertion.kind {
                AssertionKind::StartLine
                | AssertionKind::EndLine
                | AssertionKind::StartText
                | AssertionKind::EndText
                | AssertionKind::WordBoundary
                | AssertionKind::NotWordBoundary => Ok(()),
                _ => Err("RE2 knows no boundaries but \\b and \\B"),
            },
            Ast::Repetition(repetition) => {
                if matches!(&*repetition.ast, Ast::Repetition(_)) {
                    return Err("RE2 refuses a repetition of a repetition without a group between them");
                }
                let count = match repetition.op.kind {
                    RepetitionKind::Range(RepetitionRange::Exactly(count)) => count,
                    RepetitionKind::Range(RepetitionRange::AtLeast(least)) => least,
                    RepetitionKind::Range(RepetitionRange::Bounded(_, most)) => most,
                    _ => 1,
                };
                let around = self.counts.last().copied().unwrap_or(1);
                let product = around.saturating_mul(u64::from(count.max(1)));
                self.counts.push(product);
                if product > MOST_REPETITIONS { Err("RE2 repeats at most 1000 times") } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    fn visit_post(&mut self, ast: &Ast) -> Result<(), Self::Err> {
        if matches!(ast, Ast::Repetition(_)) {
            self.counts.pop();
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), Self::Err> {
        match item {
            ClassSetItem::Bracketed(_) => Err("RE2 has no class within a class: write \\[ for a bracket"),
            ClassSetItem::Unicode(_) => Err(UNICODE),
            ClassSetItem::Literal(one) => literal(one),
            ClassSetItem::Range(range) => literal(&range.start).and_then(|()| literal(&range.end)),
            _ => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ClassSetBinaryOp) -> Result<(), Self::Err> {
        Err("RE2 reads &&, -- and ~~ in a class as characters")
    }
}

fn flags(flags: &Flags) -> Result<(), &'static str> {
    let known = flags.items.iter().all(|item| match item.kind {
        FlagsItemKind::Negation => true,
        FlagsItemKind::Flag(flag) => {
            matches!(
                flag,
                Flag::CaseInsensitive | Flag::MultiLine | Flag::DotMatchesNewLine | Flag::SwapGreed
            )
        }
    });
    if known { Ok(()) } else { Err("RE2 has no flags but i, m, s and U") }
}

fn literal(literal: &Literal) -> Result<(), &'static str> {
    match literal.kind {
        LiteralKind::HexFixed(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong)
        | LiteralKind::HexBrace(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong) => {
            Err("RE2 has no \\u: write \\x{…}")
        }
        _ => Ok(()),
    }
}

const UNICODE: &str = "Unicode classes are not checked here; the names in certificates are ASCII";
/// RE2's own limit for the product of nested counts.
const MOST_REPETITIONS: u64 = 1000;
const NESTING: u32 = 100;
const LONGEST: usize = 16 << 10;
/// The most memory of a compiled expression in bytes: roughly RE2's own limit.
const MEMORY: usize = 8 << 20;
