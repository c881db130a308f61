//! The text of a message: lines of `KEY=VALUE`, as in sd_notify(3).

/// What the agent tells its holder, and the other way round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The agent serves.
    Ready,
    /// Keep the descriptors that come with the message under this name.
    Store(String),
    /// Close the descriptors that are kept under this name.
    Remove(String),
}

impl Message {
    /// The text that is sent.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Ready => "READY=1".to_owned(),
            Self::Store(name) => format!("FDSTORE=1\nFDNAME={name}"),
            Self::Remove(name) => format!("FDSTOREREMOVE=1\nFDNAME={name}"),
        }
    }

    /// Reads a message. `None` for one that means nothing here, such as a `STATUS=`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let value =
            |key: &str| text.lines().filter_map(|line| line.split_once('=')).find(|(found, _)| *found == key);
        let is_set = |key| value(key).is_some_and(|(_, value)| value == "1");
        let name = || value("FDNAME").map_or("stored", |(_, name)| name).to_owned();
        if is_set("FDSTOREREMOVE") {
            Some(Self::Remove(name()))
        } else if is_set("FDSTORE") {
            Some(Self::Store(name()))
        } else if is_set("READY") {
            Some(Self::Ready)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_understood() {
        let name = "public".to_owned();
        for message in [Message::Ready, Message::Store(name.clone()), Message::Remove(name)] {
            assert_eq!(Message::parse(&message.text()), Some(message));
        }
    }

    #[test]
    fn what_means_nothing_is_passed_over() {
        for text in ["", "STATUS=fine", "READY=0", "READY", "\n=\n", "FDNAME=x"] {
            assert_eq!(Message::parse(text), None, "{text:?}");
        }
        assert_eq!(Message::parse("STATUS=a=b\nREADY=1\n"), Some(Message::Ready));
        assert_eq!(Message::parse("FDSTORE=1"), Some(Message::Store("stored".to_owned())));
    }
}
