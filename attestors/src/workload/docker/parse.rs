//! Parses what the daemon says of a container and of an image. Who made the container chose its labels and its
//! environment, and a user's own daemon may say anything: what is kept is bounded.

use std::borrow::Cow;
use std::fmt;

use identity::Selector;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What a daemon says of a container. Its `Debug` has no values: a container's environment has passwords.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct Container {
    /// The selectors of its image, labels and environment.
    pub selectors: Vec<Selector>,
    /// How many labels and variables are left out, because one is long or all are many.
    pub left_out: usize,
    /// The name of its image (`Config.Image`); `None` for an empty one.
    pub image: Option<String>,
}

/// Why an answer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// It is not JSON, or of another shape.
    #[error("error reading JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is of another container.
    #[error("the daemon answered for another container")]
    AnotherContainer,
    /// It has no `Config`.
    #[error("the daemon's answer has no Config")]
    NoConfig,
}

/// Parses the answer to a request for the container `id`.
///
/// # Errors
/// [`ParseError`].
pub fn container(text: &[u8], id: &str) -> Result<Container, ParseError> {
    let answer: RawContainer<'_> = serde_json::from_slice(text)?;
    if answer.id.is_some_and(|Text(named)| !named.eq_ignore_ascii_case(id)) {
        return Err(ParseError::AnotherContainer);
    }
    answer.config.ok_or(ParseError::NoConfig)
}

/// Parses the answer to a request for an image, and returns the image's ID. `None` for an empty one.
///
/// # Errors
/// [`ParseError::Json`].
pub fn image_id(text: &[u8]) -> Result<Option<String>, ParseError> {
    let answer: RawImage<'_> = serde_json::from_slice(text)?;
    Ok(answer.id.map(|Text(id)| id.into_owned()).filter(|id| !id.is_empty() && id.len() <= VALUE))
}

impl Container {
    /// Adds a selector of the image, or counts it as left out.
    pub(super) fn add_image(&mut self, name: &str, value: &str) {
        self.add(&mut Room::default(), name, format_args!("{value}"));
    }

    fn add(&mut self, room: &mut Room, name: &str, value: fmt::Arguments<'_>) {
        let value = format!("{name}:{value}");
        match Selector::new("docker", &value) {
            Ok(selector) if room.takes(value.len()) => self.selectors.push(selector),
            _ => self.left_out += 1,
        }
    }
}

/// The room for selectors of one kind. Labels do not take that of variables.
struct Room {
    selectors: usize,
    bytes: usize,
}

impl Room {
    fn takes(&mut self, length: usize) -> bool {
        let fits = self.selectors > 0 && length <= VALUE.min(self.bytes);
        if fits {
            self.selectors -= 1;
            self.bytes -= length;
        }
        fits
    }
}

impl Default for Room {
    fn default() -> Self {
        Self { selectors: SELECTORS, bytes: BYTES }
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container").field("selectors", &self.selectors.len()).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawContainer<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(default, deserialize_with = "config")]
    config: Option<Container>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawImage<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
}

/// A text, which is copied only if it has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn config<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Container>, D::Error> {
    struct Config;

    impl<'de> Visitor<'de> for Config {
        type Value = Option<Container>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a container's Config")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = Container::default();
            while let Some(Text(key)) = map.next_key()? {
                match &*key {
                    "Image" => {
                        let image = map.next_value::<Option<Text<'_>>>()?;
                        if let Some(Text(image)) = image.filter(|Text(image)| !image.is_empty()) {
                            found.add_image("image_id", &image);
                            found.image = Some(image.into_owned());
                        }
                    }
                    "Labels" => map.next_value_seed(Labels(&mut found))?,
                    "Env" => map.next_value_seed(Env(&mut found))?,
                    _ => drop(map.next_value::<IgnoredAny>()?),
                }
            }
            Ok(Some(found))
        }
    }

    deserializer.deserialize_any(Config)
}

/// Adds labels, an object of texts or null, while they are read.
struct Labels<'a>(&'a mut Container);

impl<'de> DeserializeSeed<'de> for Labels<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Labels<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut room = Room::default();
        while let Some((Text(key), value)) = map.next_entry::<Text<'_>, Option<Text<'_>>>()? {
            let value = value.map_or_else(Cow::default, |Text(value)| value);
            self.0.add(&mut room, "label", format_args!("{key}:{value}"));
        }
        Ok(())
    }
}

/// Adds variables, a list of texts `NAME=VALUE` or null, while they are read.
struct Env<'a>(&'a mut Container);

impl<'de> DeserializeSeed<'de> for Env<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Env<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an environment")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut room = Room::default();
        while let Some(item) = items.next_element::<Option<Text<'_>>>()? {
            let variable = item.map_or_else(Cow::default, |Text(text)| text);
            self.0.add(&mut room, "env", format_args!("{variable}"));
        }
        Ok(())
    }
}

/// The longest selector value in bytes. Nobody registers entries for longer ones, and some of the server's databases take
/// only 255 characters.
const VALUE: usize = 4096;
/// The most labels of a container, as the most variables, and the most bytes of either.
const SELECTORS: usize = 1024;
const BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn texts(container: &Container) -> Vec<String> {
        container.selectors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_attestation_needs() {
        let text = format!(
            r#"{{"Id":"{ID}","Image":"sha256:x","HostConfig":{{"Env":["no"]}},"Config":{{"Hostname":"h",
            "Labels":{{"a":"1","é\n":"b:c","empty":""}},"Env":["PATH=/bin","NAME","","B=\"x\""],"Image":"web:1","Cmd":null}}}}"#
        );
        let found = container(text.as_bytes(), ID).unwrap();
        let expected = [
            "docker:label:a:1",
            "docker:label:é\n:b:c",
            "docker:label:empty:",
            "docker:env:PATH=/bin",
            "docker:env:NAME",
            "docker:env:",
            "docker:env:B=\"x\"",
            "docker:image_id:web:1",
        ];
        assert_eq!(texts(&found), expected);
        assert_eq!((found.image.as_deref(), found.left_out), (Some("web:1"), 0));
        assert!(!format!("{found:?}").contains("PATH"));
        assert_eq!(image_id(br#"{"Id":"sha256:1","RepoTags":null}"#).unwrap().as_deref(), Some("sha256:1"));
    }

    #[test]
    fn go_writes_null() {
        let found = container(br#"{"Config":{"Labels":null,"Env":null,"Image":""}}"#, ID).unwrap();
        assert_eq!((texts(&found), found.image), (vec![], None));
        assert!(container(br#"{"Id":null,"Config":{"Labels":{"a":null}}}"#, ID).is_ok());
        assert_eq!(image_id(br#"{"Id":""}"#).unwrap(), None);
        assert_eq!(image_id(b"{}").unwrap(), None);
    }

    #[test]
    fn refusals() {
        let another = format!("{{\"Id\":\"{}\",\"Config\":{{}}}}", ID.replace('0', "1"));
        assert!(matches!(container(another.as_bytes(), ID), Err(ParseError::AnotherContainer)));
        assert!(
            container(format!("{{\"Id\":\"{}\",\"Config\":{{}}}}", ID.to_uppercase()).as_bytes(), ID).is_ok()
        );
        assert!(matches!(container(b"{}", ID), Err(ParseError::NoConfig)));
        assert!(matches!(container(br#"{"Config":null}"#, ID), Err(ParseError::NoConfig)));
        let deep = format!("{{\"Config\":{{\"x\":{}", "[".repeat(100_000));
        for text in [
            "",
            "[]x",
            "{",
            r#"{"Config":7}"#,
            r#"{"Config":{"Env":{}}}"#,
            r#"{"Config":{"Labels":["a"]}}"#,
            &deep,
        ] {
            assert!(matches!(container(text.as_bytes(), ID), Err(ParseError::Json(_))), "{text:.40}");
        }
        assert!(image_id(b"7").is_err());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let long = json!({"Config": {"Labels": {"a": "x".repeat(VALUE)}, "Env": ["A=1"]}});
        let found = container(long.to_string().as_bytes(), ID).unwrap();
        assert_eq!((texts(&found), found.left_out), (vec!["docker:env:A=1".to_owned()], 1));
        let many = json!({"Config": {"Env": vec!["A=1"; 100_000]}});
        let found = container(many.to_string().as_bytes(), ID).unwrap();
        assert_eq!((found.selectors.len(), found.left_out), (SELECTORS, 100_000 - SELECTORS));
        let large =
            json!({"Config": {"Env": vec!["A".repeat(4000); 100], "Image": "i", "Labels": {"a": "1"}}});
        let found = container(large.to_string().as_bytes(), ID).unwrap();
        assert_eq!((found.selectors.len(), found.left_out), (16 + 2, 84));
        assert!(texts(&found).ends_with(&["docker:label:a:1".into()]));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC*", bytes: Vec<u8>) {
            let _ = (container(text.as_bytes(), ID), container(&bytes, ID), image_id(&bytes));
        }

        #[test]
        fn labels_and_variables_become_selectors(
            labels in prop::collection::btree_map("\\PC{0,9}", "\\PC{0,9}", 0..9),
            env in prop::collection::vec("\\PC{0,9}", 0..9),
        ) {
            let text = json!({"Id": ID, "Config": {"Labels": labels, "Env": env}}).to_string();
            let mut expected: Vec<_> = env.iter().map(|variable| format!("docker:env:{variable}")).collect();
            expected.extend(labels.iter().map(|(key, value)| format!("docker:label:{key}:{value}")));
            let mut found = texts(&container(text.as_bytes(), ID).unwrap());
            expected.sort();
            found.sort();
            prop_assert_eq!(found, expected);
        }
    }
}
