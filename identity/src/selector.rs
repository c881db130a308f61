//! Selectors: facts that attestors find out about a process, and that entries ask for.

use std::fmt;
use std::sync::Arc;

/// A `kind:value` pair such as `k8s:ns:yelb`, whose kind is `k8s` and whose value is `ns:yelb`. Both are opaque here;
/// only the attestor that makes a selector knows the syntax of its value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// The name of the attestor, which has no colon.
    pub kind: Arc<str>,
    /// The fact that the attestor found, never empty.
    pub value: Arc<str>,
}

impl Selector {
    /// Makes a selector from its parts.
    ///
    /// # Errors
    /// [`SelectorError`] for an empty part or a colon in the kind (SPIRE, `pkg/agent/client/util.go`).
    pub fn new(kind: &str, value: &str) -> Result<Self, SelectorError> {
        match (kind, value) {
            ("", _) => Err(SelectorError::EmptyKind),
            (kind, _) if kind.contains(':') => Err(SelectorError::ColonInKind),
            (_, "") => Err(SelectorError::EmptyValue),
            (kind, value) => Ok(Self { kind: kind.into(), value: value.into() }),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a selector is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The kind is empty.
    #[error("missing selector type")]
    EmptyKind,
    /// The kind has a colon, with which different selectors would have the same text.
    #[error("selector type contains ':'")]
    ColonInKind,
    /// The value is empty.
    #[error("missing selector value")]
    EmptyValue,
}

/// A set of selectors: sorted, without duplicates, cheap to clone and to compare.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Selectors(Arc<[Selector]>);

impl Selectors {
    /// Whether every selector of `self` is in `other`. Linear in the longer of the two.
    #[must_use]
    pub fn is_subset_of(&self, other: &Self) -> bool {
        if self.0.len() > other.0.len() {
            return false;
        }
        let mut rest = other.0.iter();
        self.0.iter().all(|wanted| rest.by_ref().find(|have| *have >= wanted) == Some(wanted))
    }

    /// The selectors, ascending.
    pub fn iter(&self) -> std::slice::Iter<'_, Selector> {
        self.0.iter()
    }

    /// The number of selectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Selector> for Selectors {
    fn from_iter<I: IntoIterator<Item = Selector>>(iter: I) -> Self {
        let mut list: Vec<Selector> = iter.into_iter().collect();
        list.sort_unstable();
        list.dedup();
        Self(list.into())
    }
}

impl<'a> IntoIterator for &'a Selectors {
    type Item = &'a Selector;
    type IntoIter = std::slice::Iter<'a, Selector>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Selectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(texts: &[u8]) -> Selectors {
        texts.iter().map(|n| Selector::new("unix", &format!("uid:{n}")).unwrap()).collect()
    }

    proptest! {
        #[test]
        fn subset_agrees_with_the_definition(a in prop::collection::vec(0u8..12, 0..8), b in prop::collection::vec(0u8..12, 0..8)) {
            let naive = a.iter().all(|x| b.contains(x));
            prop_assert_eq!(set(&a).is_subset_of(&set(&b)), naive);
        }
    }

    #[test]
    fn malformed() {
        assert_eq!(Selector::new("", "x"), Err(SelectorError::EmptyKind));
        assert_eq!(Selector::new("a:b", "x"), Err(SelectorError::ColonInKind));
        assert_eq!(Selector::new("a", ""), Err(SelectorError::EmptyValue));
    }
}
