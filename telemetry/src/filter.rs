//! Which metrics and labels are let through, by the rules of go-metrics.

/// Lists of prefixes and of labels. Without any, everything is let through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Beginnings of names, with their prefix and dots, that are let through.
    pub allowed_prefixes: Vec<String>,
    /// Beginnings of names that are left out. Of two beginnings of one name the longer one counts, and of equal ones
    /// this one.
    pub blocked_prefixes: Vec<String>,
    /// The labels that series have; empty for all.
    pub allowed_labels: Vec<String>,
    /// Labels that series do not have, even if they are allowed.
    pub blocked_labels: Vec<String>,
}

impl Filter {
    /// Whether metrics of this name, with its prefix and dots, are let through.
    pub(crate) fn allows(&self, name: &str) -> bool {
        let longest = |prefixes: &[String]| {
            prefixes.iter().filter(|prefix| name.starts_with(prefix.as_str())).map(String::len).max()
        };
        match (longest(&self.allowed_prefixes), longest(&self.blocked_prefixes)) {
            (allowed, Some(blocked)) => allowed.is_some_and(|allowed| allowed > blocked),
            (_, None) => true,
        }
    }

    pub(crate) fn allows_label(&self, label: &str) -> bool {
        let among = |labels: &[String]| labels.iter().any(|one| one == label);
        !among(&self.blocked_labels) && (self.allowed_labels.is_empty() || among(&self.allowed_labels))
    }
}
