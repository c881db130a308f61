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
    /// `jwt-svid?audience=…`: a JWT-SVID (`TokenName`).
    Token,
    /// `file-root:system`: the authorities that the host trusts (Istio's name for them).
    SystemRoots,
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
        } else if options.jwt
            && (name == TOKEN || name.strip_prefix(TOKEN).is_some_and(|rest| rest.starts_with('?')))
        {
            Self::Token
        } else if name == SYSTEM_ROOTS {
            Self::SystemRoots
        } else {
            match SpiffeId::parse(name) {
                Ok(id) if id.path().is_empty() => Self::Bundle,
                Ok(_) => Self::Svid,
                Err(_) => Self::Nothing,
            }
        }
    }
}

/// What the name of a JWT-SVID asks for: `jwt-svid?audience=A[&audience=B][&spiffe_id=S]`, encoded as the query of a
/// URL.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TokenName {
    /// Who must accept the token; at least one.
    pub(crate) audience: Vec<String>,
    /// Whose token it is; `None` for the caller's first identity.
    pub(crate) spiffe_id: Option<SpiffeId>,
}

impl TokenName {
    /// Reads a name. The error says what is wrong with it.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        if name.len() > TOKEN_LIMIT {
            return Err(format!("it is longer than {TOKEN_LIMIT} bytes"));
        }
        let (_, query) = name.split_once('?').unwrap_or_default();
        let (mut audience, mut spiffe_id) = (Vec::new(), None);
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "audience" if value.is_empty() => return Err("an audience is empty".into()),
                "audience" if audience.len() == AUDIENCES => {
                    return Err(format!("it has more than {AUDIENCES} audiences"));
                }
                "audience" => audience.push(value.into_owned()),
                "spiffe_id" if spiffe_id.is_some() => return Err("it has more than one spiffe_id".into()),
                "spiffe_id" => {
                    let id = SpiffeId::parse(&value).map_err(|reason| format!("spiffe_id: {reason}"))?;
                    spiffe_id = Some(id);
                }
                other => return Err(format!("{other:?} is neither audience nor spiffe_id")),
            }
        }
        if audience.is_empty() {
            return Err("it needs an audience: jwt-svid?audience=A".into());
        }
        Ok(Self { audience, spiffe_id })
    }
}

/// Istio's name for the host's CA file (istio `security.FileRootSystemCACert`).
const SYSTEM_ROOTS: &str = "file-root:system";
/// The first part of the name of a JWT-SVID.
const TOKEN: &str = "jwt-svid";
/// The longest name of a JWT-SVID, in bytes.
const TOKEN_LIMIT: usize = 1024;
/// The most audiences of a JWT-SVID.
const AUDIENCES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tokens() {
        let read = |name: &str| TokenName::parse(name);
        let id = SpiffeId::parse("spiffe://td/web").ok();
        let two =
            read("jwt-svid?audience=https%3A%2F%2Fa%26b&audience=c+d&spiffe_id=spiffe://td/web").unwrap();
        assert_eq!(two, TokenName { audience: vec!["https://a&b".into(), "c d".into()], spiffe_id: id });
        let plain = TokenName { audience: vec!["spiffe://td/db".into()], spiffe_id: None };
        assert_eq!(read("jwt-svid?audience=spiffe://td/db").unwrap(), plain);
        let long = format!("jwt-svid?audience={}", "x".repeat(5000));
        for (name, reason) in [
            ("jwt-svid", "it needs an audience: jwt-svid?audience=A"),
            ("jwt-svid?audience=", "an audience is empty"),
            ("jwt-svid?audiense=a", "\"audiense\" is neither audience nor spiffe_id"),
            (
                "jwt-svid?audience=a&spiffe_id=spiffe://td/a&spiffe_id=spiffe://td/b",
                "it has more than one spiffe_id",
            ),
            (&*long, "it is longer than 1024 bytes"),
        ] {
            assert_eq!(read(name).unwrap_err(), reason);
        }
        assert!(read("jwt-svid?audience=a&spiffe_id=web").unwrap_err().starts_with("spiffe_id: "));
        let (on, off) = (Options::default(), Options { jwt: false, ..Options::default() });
        for name in ["jwt-svid?audience=a", "jwt-svid"] {
            assert_eq!((Meaning::of(name, &on), Meaning::of(name, &off)), (Meaning::Token, Meaning::Nothing));
        }
        assert_eq!(Meaning::of("jwt-svids", &on), Meaning::Nothing);
    }

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
