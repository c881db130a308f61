//! Typed reading of one section of a file, by HCL 1's rules.
//!
//! Keys match whatever their case. A section can be written in several blocks: of a scalar the
//! last one counts, lists are joined, blocks are merged. Whole numbers can stand in quotes,
//! strings can be bare numbers, `true` and `false` must be bare. An empty string, a null and an
//! absent key are the same thing, as in spire-agent, where defaults fill in zero values.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::hcl::{Item, Key, KeyForm, Kind, Object, Value};
use crate::report::Report;
use crate::{Unknown, UnknownKey, Warning};

/// A value and the line that it comes from; a flag has none.
#[derive(Clone)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) line: Option<u32>,
}

/// What becomes of keys that nobody asked for.
#[derive(Clone, Copy)]
pub(crate) enum Strictness {
    /// spire-agent refuses them. Keys in quotes escape its notice in HCL, not in JSON.
    Refuse,
    /// A plugin of spire-agent refuses them: `plugin_data` reaches plugins as HCL in which
    /// the keys of a JSON file stand in quotes, so only bare keys are noticed.
    RefuseBare,
    /// spire-agent ignores them. We say so.
    Ignore,
}

pub(crate) struct Section<'a> {
    path: String,
    blocks: Vec<&'a Object>,
    /// Where the section begins, if it is there.
    pub(crate) line: Option<u32>,
    asked: RefCell<BTreeSet<&'static str>>,
    report: &'a Report,
}

impl<'a> Section<'a> {
    pub(crate) fn new(path: &str, blocks: Vec<&'a Object>, line: Option<u32>, report: &'a Report) -> Self {
        Self { path: path.to_owned(), blocks, line, asked: RefCell::default(), report }
    }

    pub(crate) fn report(&self) -> &'a Report {
        self.report
    }

    /// The full name of a key, for messages.
    pub(crate) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Everything that is written under this key, in order.
    pub(crate) fn items(&self, key: &'static str) -> Vec<&'a Item> {
        self.asked.borrow_mut().insert(key);
        let items = self.blocks.iter().flat_map(|block| &block.items);
        items.filter(|item| item.key.name.eq_ignore_ascii_case(key)).collect()
    }

    fn scalar<T>(
        &self,
        key: &'static str,
        expected: &str,
        read: impl Fn(&Kind) -> Option<T>,
    ) -> Option<Setting<T>> {
        let mut last = None;
        for item in self.items(key) {
            let line = item.value.line;
            last = match &item.value.kind {
                Kind::Null => None,
                kind => {
                    let value = read(kind);
                    if value.is_none() {
                        self.wrong_kind(key, expected, &item.value);
                    }
                    value.map(|value| Setting { value, line: Some(line) })
                }
            };
        }
        last
    }

    fn wrong_kind(&self, key: &str, expected: &str, found: &Value) {
        let found_name = match &found.kind {
            Kind::Text(_) if expected == WHOLE_NUMBER => "a string that is none",
            kind => kind.name(),
        };
        self.report
            .problem(found.line, format!("{}: write {expected} instead of {found_name}", self.name(key)));
    }

    /// A string; an empty one counts as absent.
    pub(crate) fn text(&self, key: &'static str) -> Option<Setting<String>> {
        self.scalar(key, "a quoted string", text_of).filter(|text| !text.value.is_empty())
    }

    /// A whole number.
    pub(crate) fn int(&self, key: &'static str) -> Option<Setting<i64>> {
        self.scalar(key, WHOLE_NUMBER, |kind| match kind {
            Kind::Integer(text) | Kind::Text(text) => parse_int(text),
            _ => None,
        })
    }

    /// `true` or `false`.
    pub(crate) fn flag(&self, key: &'static str) -> Option<Setting<bool>> {
        self.scalar(key, "true or false without quotes", |kind| match kind {
            Kind::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// Whether the flag is there and true.
    pub(crate) fn is_set(&self, key: &'static str) -> bool {
        self.flag(key).is_some_and(|flag| flag.value)
    }

    /// A list of strings.
    pub(crate) fn texts(&self, key: &'static str) -> Vec<Setting<String>> {
        self.items(key).into_iter().flat_map(|item| self.texts_of(key, &item.value)).collect()
    }

    /// The strings of a value that must be a list of them.
    pub(crate) fn texts_of(&self, key: &str, value: &Value) -> Vec<Setting<String>> {
        let values = match &value.kind {
            Kind::Null => return Vec::new(),
            Kind::List(values) => values,
            _ => {
                self.wrong_kind(key, "a list of strings, [\"…\"],", value);
                return Vec::new();
            }
        };
        let mut texts = Vec::new();
        for value in values {
            match text_of(&value.kind) {
                Some(text) => texts.push(Setting { value: text, line: Some(value.line) }),
                None => self.wrong_kind(key, "a quoted string", value),
            }
        }
        texts
    }

    /// The block under this key; one that is not there reads as an empty one.
    pub(crate) fn block(&self, key: &'static str) -> Self {
        let items = self.items(key);
        let line = items.first().map(|item| item.key.line);
        let blocks = items.iter().flat_map(|item| self.objects(key, &item.value)).collect();
        Section::new(&self.name(key), blocks, line, self.report)
    }

    /// Whether the block is there, maybe empty.
    pub(crate) fn is_present(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// One section per element of a list of objects, or per repeated block.
    pub(crate) fn blocks(&self, key: &'static str) -> Vec<Self> {
        let mut sections = Vec::new();
        for item in self.items(key) {
            for object in self.objects(key, &item.value) {
                let line = Some(item.key.line);
                sections.push(Section::new(&self.name(key), vec![object], line, self.report));
            }
        }
        sections
    }

    /// Like [`Self::blocks`], and blocks can have a name that means nothing: the official chart
    /// writes `brokers: [{broker: [{ … }]}]`.
    pub(crate) fn named_blocks(&self, key: &'static str) -> Vec<Self> {
        let mut sections = Vec::new();
        for section in self.blocks(key) {
            let inner: Option<Vec<_>> = section.entries().map(|(_, value)| objects_of(value)).collect();
            match inner.map(|inner| inner.concat()) {
                Some(objects) if !objects.is_empty() => sections.extend(
                    objects
                        .into_iter()
                        .map(|object| Section::new(&section.path, vec![object], section.line, self.report)),
                ),
                _ => sections.push(section),
            }
        }
        sections
    }

    /// The members of a block whose keys are free.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a Key, &'a Value)> + use<'a, '_> {
        self.blocks.iter().flat_map(|block| &block.items).map(|item| (&item.key, &item.value))
    }

    /// JSON wraps objects in lists at will, so a list of objects is as good as an object.
    pub(crate) fn objects(&self, key: &str, value: &'a Value) -> Vec<&'a Object> {
        let objects = objects_of(value);
        if objects.is_none() {
            self.wrong_kind(key, "a block, { … },", value);
        }
        objects.unwrap_or_default()
    }

    /// Keys that nobody asked for and that count as unknown at this strictness, sorted.
    fn leftovers(&self, noticed: impl Fn(KeyForm) -> bool) -> (Vec<&'a Key>, Vec<&'a Key>) {
        let asked = self.asked.borrow();
        let mut keys: Vec<&Key> = self
            .entries()
            .map(|(key, _)| key)
            .filter(|key| !asked.iter().any(|known| key.name.eq_ignore_ascii_case(known)))
            .collect();
        keys.sort_by(|a, b| a.name.cmp(&b.name));
        keys.dedup_by(|a, b| a.name == b.name);
        keys.into_iter().partition(|key| noticed(key.form))
    }

    /// Ends the reading: reports the keys that nobody asked for.
    pub(crate) fn finish(
        self,
        strictness: Strictness,
        section: &str,
        hint: fn(&str) -> Option<&'static str>,
    ) {
        let (refused, ignored) = self.leftovers(|form| match strictness {
            Strictness::Refuse => form != KeyForm::Quoted,
            Strictness::RefuseBare => form == KeyForm::Bare,
            Strictness::Ignore => false,
        });
        for key in ignored {
            let message = format!("Unknown key {} is ignored (line {})", self.name(&key.name), key.line);
            self.report.warn(Warning::from(message));
        }
        if refused.is_empty() {
            return;
        }
        let keys = refused.into_iter().map(|key| UnknownKey {
            name: key.name.clone(),
            line: key.line,
            hint: hint(&key.name.to_ascii_lowercase()),
        });
        self.report.unknown(Unknown { section: section.to_owned(), keys: keys.collect() });
    }
}

/// For sections without keys of the past.
pub(crate) fn no_hint(_key: &str) -> Option<&'static str> {
    None
}

/// A block, a list of blocks, or null, which is no block; `None` for anything else.
pub(crate) fn objects_of(value: &Value) -> Option<Vec<&Object>> {
    match &value.kind {
        Kind::Null => Some(Vec::new()),
        Kind::Object(object) => Some(vec![object]),
        Kind::List(values) => {
            let objects = values.iter().map(|value| match &value.kind {
                Kind::Object(object) => Some(object),
                _ => None,
            });
            objects.collect()
        }
        _ => None,
    }
}

fn text_of(kind: &Kind) -> Option<String> {
    match kind {
        Kind::Text(text) | Kind::Integer(text) => Some(text.clone()),
        _ => None,
    }
}

/// Go's `strconv.ParseInt` with base 0: `0x`, `0o`, `0b` and a leading 0 choose the base.
fn parse_int(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match (lower.get(..2), lower.strip_prefix('0')) {
        (Some("0x"), _) => (16, &lower[2..]),
        (Some("0o"), _) => (8, &lower[2..]),
        (Some("0b"), _) => (2, &lower[2..]),
        (_, Some(octal)) if !octal.is_empty() => (8, octal),
        _ => (10, lower.as_str()),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    // As Go's strconv with base 0: between digits, and after the prefix of a base.
    let misplaced =
        digits.ends_with('_') || digits.contains("__") || (radix == 10 && digits.starts_with('_'));
    if misplaced {
        return None;
    }
    let value = i128::from_str_radix(&digits.replace('_', ""), radix).ok()?;
    i64::try_from(if negative { -value } else { value }).ok()
}

const WHOLE_NUMBER: &str = "a whole number";

#[cfg(test)]
mod tests {
    use super::parse_int;

    #[test]
    fn numbers_are_those_of_strconv_with_base_0() {
        for (text, value) in [
            ("8_081", 8081),
            ("0x1_f", 31),
            ("0x_1f", 31),
            ("0_17", 15),
            ("017", 15),
            ("-1_0", -10),
            ("0b11", 3),
        ] {
            assert_eq!(parse_int(text), Some(value), "{text}");
        }
        for text in ["", "_1", "1_", "1__0", "0x", "0x1_", "08", "1.0", "--1", "+_1", "99999999999999999999"]
        {
            assert_eq!(parse_int(text), None, "{text}");
        }
    }
}
