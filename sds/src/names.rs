//! The resource names of a request, and what each of them means.

use std::cmp::Ordering;

use identity::SpiffeId;

use crate::Options;

/// The names that a stream asks for, ascending and without duplicates. All texts are one allocation: a stream may
/// have thousands of names, and as many allocations would fragment the heap when streams come and go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NameList {
    text: Box<str>,
    /// Where each name ends in `text`, and what it means.
    ends: Box<[(u32, Meaning)]>,
}

impl NameList {
    /// Makes a list of `names`, which must be ascending and have less than 4 GiB together.
    pub(crate) fn new(names: &[&str], options: &Options) -> Self {
        let mut end = 0;
        let ends = names.iter().map(|name| {
            end += u32::try_from(name.len()).expect("names are limited");
            (end, Meaning::of(name, options))
        });
        Self { ends: ends.collect(), text: names.concat().into() }
    }

    /// The list with these names added, and then those taken away. All are ascending.
    pub(crate) fn changed(&self, add: &[&str], remove: &[&str], options: &Options) -> Self {
        let mut old = self.iter().map(|(_, name, meaning)| (name, meaning)).peekable();
        let mut new = add.iter().map(|name| (*name, Meaning::of(name, options))).peekable();
        let (mut text, mut ends) = (String::new(), Vec::new());
        while let Some(next) = match (old.peek(), new.peek()) {
            (Some(a), Some(b)) => match a.0.cmp(b.0) {
                Ordering::Less => old.next(),
                Ordering::Greater => new.next(),
                Ordering::Equal => {
                    old.next();
                    new.next()
                }
            },
            (Some(_), None) => old.next(),
            (None, _) => new.next(),
        } {
            let (name, meaning) = next;
            if remove.binary_search(&name).is_err() {
                text.push_str(name);
                ends.push((u32::try_from(text.len()).expect("names are limited"), meaning));
            }
        }
        Self { text: text.into(), ends: ends.into() }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(crate) fn get(&self, place: u32) -> &str {
        let place = place as usize;
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before].0);
        &self.text[start as usize..self.ends[place].0 as usize]
    }

    /// All names with their places and meanings.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &str, Meaning)> {
        (0..).zip(&self.ends).map(|(place, (_, meaning))| (place, self.get(place), *meaning))
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        let (mut low, mut high) = (0, u32::try_from(self.len()).unwrap_or(u32::MAX));
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle).cmp(name) {
                Ordering::Equal => return true,
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        false
    }

    /// Bytes that the list has allocated.
    pub(crate) fn allocated(&self) -> usize {
        self.text.len() + size_of_val(&*self.ends)
    }
}

/// The meaning of one resource name. Each name is judged on its own. (spire-agent serves only the first of several
/// aliases of one thing and refuses the others, for no good reason.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The name is a SPIFFE ID with a path: its X.509-SVID.
    Svid,
    /// `default_svid_name`: the X.509-SVID of the caller's first entry.
    DefaultSvid,
    /// The name is the ID of a trust domain, own or foreign: its bundle.
    Bundle,
    /// `default_bundle_name`: the bundle of the agent's own trust domain.
    DefaultBundle,
    /// `default_all_bundles_name`: the own bundle and all federated ones.
    AllBundles,
    /// The name can never be served.
    Nothing,
}

impl Meaning {
    /// Interprets a resource name. If two aliases are configured alike, the one bundle wins over all bundles (SPIRE
    /// warns of it and ignores `default_all_bundles_name`), and both win over the SVID.
    #[must_use]
    pub fn of(name: &str, options: &Options) -> Self {
        if name == options.default_bundle_name {
            Self::DefaultBundle
        } else if name == options.default_all_bundles_name {
            Self::AllBundles
        } else if name == options.default_svid_name {
            Self::DefaultSvid
        } else {
            match SpiffeId::parse(name) {
                Ok(id) if id.path().is_empty() => Self::Bundle,
                Ok(_) => Self::Svid,
                Err(_) => Self::Nothing,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_what_it_was_made_of() {
        let options = Options::default();
        for names in [&[][..], &["a"], &["", "a", "ab", "spiffe://td", "spiffe://td/web", "z"]] {
            let list = NameList::new(names, &options);
            assert_eq!((list.len(), list.is_empty()), (names.len(), names.is_empty()));
            let all: Vec<_> = list.iter().map(|(_, name, _)| name).collect();
            assert_eq!(all, names);
            for name in ["", "a", "aa", "ab", "spiffe://td", "y", "z", "zz"] {
                assert_eq!(list.contains(name), names.contains(&name), "{name} in {names:?}");
            }
            for (place, name, meaning) in list.iter() {
                assert_eq!((list.get(place), Meaning::of(name, &options)), (name, meaning));
            }
        }
    }
}
