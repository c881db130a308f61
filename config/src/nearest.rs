//! Finds the key that somebody probably meant.

/// The known word that differs least from `word`; `None` if every one differs too much to be a typing error. The case of
/// letters does not matter.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    if word.len() > LONGEST {
        return None;
    }
    let most = (word.len() / 3).min(MOST_EDITS);
    let distances = known.into_iter().map(|other| (distance(&word, &other.to_ascii_lowercase()), other));
    distances.filter(|(distance, _)| *distance <= most).min().map(|(_, other)| other)
}

/// The Levenshtein distance, in bytes.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, left) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (column, top) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(left != top);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

/// The longest word that is compared; no key is longer. A malicious file could have a megabyte here.
const LONGEST: usize = 64;
const MOST_EDITS: usize = 3;

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_typing_error_is_recognised_and_another_word_is_not() {
        let known = ["sync_interval", "require_pq_kem", "pod_source"];
        for (word, expected) in [
            ("sync_intervall", Some("sync_interval")),
            ("Sync_Intreval", Some("sync_interval")),
            ("podsource", Some("pod_source")),
            ("require_pq", None),
            ("broker", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
        assert_eq!(nearest(&"a".repeat(1_000_000), known), None);
    }
}
