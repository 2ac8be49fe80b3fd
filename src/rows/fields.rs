//! A JSON object of which every key has to be asked for.

use std::fmt;

use anyhow::{Result, anyhow, bail};
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The keys of an object that were not taken yet, in their order, with their values as they stand.
#[derive(Debug, Default)]
pub struct Fields(Vec<(String, Box<RawValue>)>);

impl Fields {
    /// Reads a line.
    pub fn parse(line: &[u8]) -> Result<Self> {
        serde_json::from_slice(line).map_err(|error| {
            // The line's number in the file is told elsewhere.
            anyhow!("the line holds no JSON object: {}", error.to_string().replace(" at line 1 column ", " at column "))
        })
    }

    /// Takes a value as it stands.
    pub fn take_raw(&mut self, key: &str) -> Option<Box<RawValue>> {
        let at = self.0.iter().position(|(name, _)| name == key)?;
        Some(self.0.remove(at).1)
    }

    /// Takes a value; `null` is like none. `expected` says in an error what it should be.
    pub fn take<T: DeserializeOwned>(&mut self, key: &str, expected: &str) -> Result<Option<T>> {
        let Some(value) = self.take_raw(key) else { return Ok(None) };
        serde_json::from_str(value.get())
            .map_err(|_| anyhow!("{key}: {expected} is expected, not {}", shortened(value.get())))
    }

    /// Takes the value of the first of these keys that has one, `null` being none.
    pub fn take_first<T: DeserializeOwned>(&mut self, keys: &[&str], expected: &str) -> Result<Option<T>> {
        for key in keys {
            if let Some(value) = self.take(key, expected)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// Whether there is such a key.
    pub fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(name, _)| name == key)
    }

    /// Adds a text.
    pub fn put(&mut self, key: &str, text: &str) {
        let value = serde_json::value::to_raw_value(text).expect("texts are JSON");
        self.0.push((key.to_owned(), value));
    }

    /// Keys that were not taken, but for those that begin with `_`: these are remarks.
    pub fn left(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_str()).filter(|key| !key.starts_with('_'))
    }

    /// An error that names the first key nobody took.
    pub fn refuse_left(&self) -> Result<()> {
        if let Some(key) = self.left().next() {
            bail!("the key \"{key}\" means nothing here; keys that begin with _ are passed over");
        }
        Ok(())
    }
}

/// As much of a value as fits into a message.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields: Vec<(String, Box<RawValue>)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, _>()? {
                    if fields.iter().any(|(other, _)| *other == key) {
                        return Err(A::Error::custom(format!("the key \"{key}\" is there twice")));
                    }
                    fields.push((key, value));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Object)
    }
}
