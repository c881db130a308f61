//! How selectors are shown. Their values may be sensitive: labels, environment variables, paths.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::OnceLock;

use identity::Selector;

/// To whom selectors are shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    /// Root of the host sees every value.
    pub(crate) is_root: bool,
    /// Beginnings of selectors that are in the log anyway (`log_selectors`).
    pub(crate) logged: &'a [String],
}

impl Reader<'_> {
    /// A selector as the reader may see it. Otherwise its name, and a hash by which equal ones are known as equal while
    /// this agent runs.
    pub(crate) fn show(&self, selector: &Selector) -> String {
        let text = selector.to_string();
        if self.is_root || self.is_logged(&text) {
            return text;
        }
        static KEY: OnceLock<RandomState> = OnceLock::new();
        let hash = KEY.get_or_init(RandomState::new).hash_one(&text);
        let name = selector.value.split_once(':').map_or("", |(name, _)| name);
        format!("{}:{name}:#{hash:016x}", selector.kind)
    }

    fn is_logged(&self, text: &str) -> bool {
        self.logged.iter().any(|prefix| {
            text.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_hidden_from_all_but_root() {
        let label = Selector::new("k8s", "pod-label:token:secret").unwrap();
        let root = Reader { is_root: true, logged: &[] };
        assert_eq!(root.show(&label), "k8s:pod-label:token:secret");
        let other = Reader { is_root: false, logged: &["k8s:ns".to_owned()] };
        let shown = other.show(&label);
        assert!(shown.starts_with("k8s:pod-label:#") && !shown.contains("secret"), "{shown}");
        assert_eq!(shown, other.show(&label));
        assert_eq!(other.show(&Selector::new("k8s", "ns:web").unwrap()), "k8s:ns:web");
        assert!(!other.show(&Selector::new("k8s", "nsx:web").unwrap()).contains("web"));
    }
}
