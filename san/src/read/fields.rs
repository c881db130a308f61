//! Reads the fields of one message in protobuf's JSON form: names are in `snake_case` or `lowerCamelCase`, and null
//! means absent.

use serde_json::{Map, Value};

use super::ReadError;

/// A message whose fields are taken one by one. Fields that are left at the end are unknown.
pub(super) struct Fields<'a> {
    at: String,
    message: &'static str,
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(value: &'a Value, at: String, message: &'static str) -> Result<Self, ReadError> {
        match value {
            Value::Object(map) => Ok(Self { at, message, map, known: Vec::new() }),
            _ => Err(ReadError::Type {
                at: if at.is_empty() { message.to_owned() } else { at },
                expected: "an object",
            }),
        }
    }

    /// Takes a field. Returns its value and its path, or `None` if it is absent.
    pub(super) fn take(&mut self, name: &'static str) -> Result<Option<(&'a Value, String)>, ReadError> {
        self.known.push(name);
        let camel = camel(name);
        let both = camel != name && self.map.contains_key(&camel) && self.map.contains_key(name);
        let at = join(&self.at, name);
        if both {
            return Err(ReadError::Twice { at });
        }
        let found = self.map.get(name).or_else(|| self.map.get(&camel));
        Ok(found.filter(|value| !value.is_null()).map(|value| (value, at)))
    }

    pub(super) fn list<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&Value, &str) -> Result<T, ReadError>,
    ) -> Result<Vec<T>, ReadError> {
        let Some((value, at)) = self.take(name)? else { return Ok(Vec::new()) };
        let Value::Array(items) = value else { return Err(ReadError::Type { at, expected: "a list" }) };
        items.iter().enumerate().map(|(place, item)| read(item, &format!("{at}[{place}]"))).collect()
    }

    pub(super) fn bool(&mut self, name: &'static str) -> Result<bool, ReadError> {
        match self.take(name)? {
            None => Ok(false),
            Some((Value::Bool(on), _)) => Ok(*on),
            Some((_, at)) => Err(ReadError::Type { at, expected: "true or false" }),
        }
    }

    /// Checks that no unknown field is left.
    pub(super) fn finish(self) -> Result<(), ReadError> {
        let known =
            |key: &str| key == "@type" || self.known.iter().any(|name| *name == key || camel(name) == key);
        match self.map.keys().find(|key| !known(key)) {
            None => Ok(()),
            Some(key) => Err(ReadError::Unknown { at: join(&self.at, key), message: self.message }),
        }
    }
}

pub(super) fn text(value: &Value, at: &str) -> Result<String, ReadError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        _ => Err(ReadError::Type { at: at.to_owned(), expected: "text (in YAML, put it in quotes)" }),
    }
}

/// Finds a field in either spelling.
pub(super) fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.get(name).or_else(|| value.get(camel(name))).filter(|value| !value.is_null())
}

pub(super) fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}
