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

/// The Levenshtein distance, in bytes, in which two neighbours that are swapped count as one edit: the commonest mistake.
fn distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let (mut before, mut above) = (Vec::new(), (0..=other.len()).collect::<Vec<_>>());
    for (line, left) in one.iter().enumerate() {
        let mut row = vec![line + 1];
        for (column, top) in other.iter().enumerate() {
            let changed = above[column] + usize::from(left != top);
            let mut least = changed.min(above[column + 1] + 1).min(row[column] + 1);
            let is_swapped = line > 0 && column > 0 && one[line - 1] == *top && other[column - 1] == *left;
            if is_swapped {
                let swapped: usize = before[column - 1];
                least = least.min(swapped + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[other.len()]
}

/// The longest word that is compared; no key is longer. A malicious file could have a megabyte here.
const LONGEST: usize = 64;
const MOST_EDITS: usize = 3;

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_typing_error_is_recognised_and_another_word_is_not() {
        let known = ["sync_interval", "require_pq_kem", "pod_source", "jwt"];
        for (word, expected) in [
            ("sync_intervall", Some("sync_interval")),
            ("Sync_Intreval", Some("sync_interval")),
            ("podsource", Some("pod_source")),
            ("jtw", Some("jwt")),
            ("twj", None),
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
