//! Reads the values of one section of a file, by the rules of HCL 1.
//!
//! The case of keys does not matter. A section can be written as several blocks: of a repeated scalar the last one
//! counts, lists are joined, blocks are merged. Whole numbers may be in quotes, strings may be bare numbers, `true`
//! and `false` must be bare. As in spire-agent, where defaults fill in zero values, an empty string, a null and an
//! absent key are the same.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::hcl::{Item, Key, KeyForm, Kind, Object, Value};
use crate::nearest::nearest;
use crate::report::Report;
use crate::{Unknown, UnknownKey};

/// A value, and the line of the file that it comes from. A value from a flag has no line.
#[derive(Clone)]
pub(crate) struct Setting<T> {
    pub(crate) value: T,
    pub(crate) line: Option<u32>,
}

/// What happens to unknown keys of a section.
#[derive(Clone, Copy)]
pub(crate) enum Strictness {
    /// They are an error, as with spire-agent. Keys in quotes are noticed in JSON but not in HCL.
    Refuse,
    /// They are an error, as with a plugin of spire-agent: plugins get `plugin_data` as HCL in which all keys of a
    /// JSON file are in quotes, so only bare keys are noticed.
    RefuseBare,
    /// They are ignored, as by spire-agent, but with a warning.
    Ignore,
}

pub(crate) struct Section<'a> {
    path: String,
    blocks: Vec<&'a Object>,
    /// The line where the section begins, if it is in the file.
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

    /// The full name of a key, for error messages.
    pub(crate) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Whether the key has a value, which may be unreadable.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.items(key).iter().any(|item| item.value.kind != Kind::Null)
    }

    /// All values of this key, in order.
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
            Kind::Integer(_) if expected == WHOLE_NUMBER => "one that does not fit into 64 bits",
            kind => kind.name(),
        };
        self.report
            .problem(found.line, format!("{}: write {expected} instead of {found_name}", self.name(key)));
    }

    /// Reads a string. An empty one counts as absent.
    pub(crate) fn text(&self, key: &'static str) -> Option<Setting<String>> {
        self.scalar(key, "a quoted string", text_of).filter(|text| !text.value.is_empty())
    }

    /// Reads a whole number.
    pub(crate) fn int(&self, key: &'static str) -> Option<Setting<i64>> {
        self.scalar(key, WHOLE_NUMBER, |kind| match kind {
            Kind::Integer(text) | Kind::Text(text) => parse_int(text),
            _ => None,
        })
    }

    /// Reads `true` or `false`.
    pub(crate) fn flag(&self, key: &'static str) -> Option<Setting<bool>> {
        self.scalar(key, "true or false without quotes", |kind| match kind {
            Kind::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// Whether the key is `true`.
    pub(crate) fn is_set(&self, key: &'static str) -> bool {
        self.flag(key).is_some_and(|flag| flag.value)
    }

    /// Reads a list of strings.
    pub(crate) fn texts(&self, key: &'static str) -> Vec<Setting<String>> {
        self.items(key).into_iter().flat_map(|item| self.texts_of(key, &item.value)).collect()
    }

    /// The strings of `value`, which must be a list of strings.
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

    /// The block with this key. A missing block is like an empty one.
    pub(crate) fn block(&self, key: &'static str) -> Self {
        let items = self.items(key);
        let line = items.first().map(|item| item.key.line);
        let blocks = items.iter().flat_map(|item| self.objects(key, &item.value)).collect();
        Section::new(&self.name(key), blocks, line, self.report)
    }

    /// Whether the block is in the file, even if it is empty.
    pub(crate) fn is_present(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// One section for each element of a list of objects, or for each repeated block.
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

    /// As [`Self::blocks`], for blocks that may have a name without meaning: the official chart writes
    /// `brokers: [{broker: [{ … }]}]`.
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

    /// The members of a block that may have any keys.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a Key, &'a Value)> + use<'a, '_> {
        self.blocks.iter().flat_map(|block| &block.items).map(|item| (&item.key, &item.value))
    }

    /// The objects of a value. A list of objects counts as an object, because JSON configurations wrap objects in
    /// lists.
    pub(crate) fn objects(&self, key: &str, value: &'a Value) -> Vec<&'a Object> {
        let objects = objects_of(value);
        if objects.is_none() {
            self.wrong_kind(key, "a block, { … },", value);
        }
        objects.unwrap_or_default()
    }

    /// The unknown keys, sorted: first those that count as errors, then the others.
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

    /// Reports the unknown keys. Every known key was read before.
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
            let mut message = format!("Unknown key {} is ignored", self.name(&key.name));
            if let Some(hint) = hint(&key.name.to_ascii_lowercase()) {
                message = format!("{message}: {hint}");
            } else if let Some(known) = nearest(&key.name, self.asked.borrow().iter().copied()) {
                message = format!("{message}; did you mean {known}?");
            }
            self.report.ignored(key.line, message);
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

/// For sections that have no dropped keys.
pub(crate) fn no_hint(_key: &str) -> Option<&'static str> {
    None
}

/// The objects of a block or a list of blocks; null has none. `None` for anything else.
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

/// Parses a number as Go's `strconv.ParseInt` with base 0: `0x`, `0o`, `0b` and a leading 0 set the base.
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
    // As in Go, `_` may be between digits and after the prefix of the base.
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
