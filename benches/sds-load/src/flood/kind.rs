//! The kinds of floods.

use serde::{Deserialize, Serialize};

/// What a flood does. The text of each is what `--help` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Each kind in turn
    All,
    /// A hundred streams a connection, each with the start of a message that never ends
    UnfinishedMessages,
    /// Requests whose header blocks fill the HPACK table and evict all that was in it
    HpackChurn,
    /// A few bytes of header block that stand for 20 KB of headers
    HeadersTooLong,
    /// Rejections over SDS with 60 KB of words each, which an agent may log
    NackWords,
    /// Streams of SDS that each ask for 60 KB of names that there are not, and wait
    HeldNames,
    /// A delta stream with 60 KB of names, and requests of a few bytes that change them without end
    DeltaChanges,
    /// Calls that are taken back as soon as they are made (CVE-2023-44487)
    RapidReset,
    /// PINGs, SETTINGS and calls whose answers are never read
    UnreadAnswers,
    /// As many connections as may be had, which say nothing
    SilentConnections,
    /// Connections that open, make a few calls, and close
    SmallConnections,
    /// Streams whose windows let one byte through, now and then
    SlowReaders,
}

impl Kind {
    /// These kinds, each once and in the order given.
    pub(crate) fn chosen(words: &[Self]) -> Vec<Self> {
        let mut chosen: Vec<Self> = Vec::new();
        for word in words {
            let kinds = if *word == Self::All { &Self::EACH[..] } else { std::slice::from_ref(word) };
            for kind in kinds {
                if !chosen.contains(kind) {
                    chosen.push(*kind);
                }
            }
        }
        chosen
    }

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::UnfinishedMessages => "unfinished-messages",
            Self::HpackChurn => "hpack-churn",
            Self::HeadersTooLong => "headers-too-long",
            Self::NackWords => "nack-words",
            Self::HeldNames => "held-names",
            Self::DeltaChanges => "delta-changes",
            Self::RapidReset => "rapid-reset",
            Self::UnreadAnswers => "unread-answers",
            Self::SilentConnections => "silent-connections",
            Self::SmallConnections => "small-connections",
            Self::SlowReaders => "slow-readers",
        }
    }

    /// The default number of concurrent connections.
    pub(crate) fn usual_connections(self) -> usize {
        if self == Self::SilentConnections { 1000 } else { 32 }
    }

    const EACH: [Self; 11] = [
        Self::UnfinishedMessages,
        Self::HpackChurn,
        Self::HeadersTooLong,
        Self::NackWords,
        Self::HeldNames,
        Self::DeltaChanges,
        Self::RapidReset,
        Self::UnreadAnswers,
        Self::SilentConnections,
        Self::SmallConnections,
        Self::SlowReaders,
    ];
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn all_are_all() {
        assert_eq!(Kind::EACH.len() + 1, Kind::value_variants().len());
        assert_eq!(Kind::chosen(&[Kind::All]), Kind::EACH);
        assert_eq!(
            Kind::chosen(&[Kind::RapidReset, Kind::All])[..2],
            [Kind::RapidReset, Kind::UnfinishedMessages]
        );
        assert_eq!(Kind::chosen(&[Kind::RapidReset, Kind::All]).len(), 11);
    }

    #[test]
    fn each_is_described() {
        for kind in Kind::value_variants() {
            let value = kind.to_possible_value().unwrap();
            assert!(value.get_help().is_some(), "{kind:?}");
            assert_eq!(value.get_name(), kind.name());
        }
    }
}
