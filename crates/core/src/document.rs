//! Owns a JSON object as bytes: its members in their order, each as it is written.
//!
//! Invariant: a member that nobody sets is written as it was read. Parsed into numbers and written
//! again, 1e400 would be lost and 1.10 be another text.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of an object; of a name that comes twice the last counts, as for JavaScript.
#[derive(Default)]
pub struct Document {
    members: Vec<(String, Box<str>)>,
}

impl Document {
    /// None if the text is no JSON object.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.members.iter().find(|member| member.0 == name).map(|member| &*member.1)
    }

    /// Sets a member to a JSON text, in the place that it has, or at the end.
    pub fn set(&mut self, name: &str, text: &str) {
        match self.members.iter_mut().find(|member| member.0 == name) {
            Some(member) => member.1 = text.into(),
            None => self.members.push((name.to_owned(), text.into())),
        }
    }

    /// Takes a member out.
    pub fn remove(&mut self, name: &str) -> Option<Box<str>> {
        let place = self.members.iter().position(|member| member.0 == name)?;
        Some(self.members.remove(place).1)
    }

    /// Gives each member that is still what `jsonb` says of it the bytes that it has in `text`, and
    /// all members the order that they have there; new ones follow.
    pub fn keep(&mut self, text: &Document, jsonb: &Document) {
        for (name, value) in &mut self.members {
            if jsonb.get(name) == Some(&**value)
                && let Some(kept) = text.get(name)
            {
                *value = kept.into();
            }
        }
        let place = |name: &str| {
            text.members.iter().position(|member| member.0 == name).unwrap_or(usize::MAX)
        };
        self.members.sort_by_cached_key(|(name, _)| place(name));
    }

    pub fn to_text(&self) -> String {
        let mut text = String::from("{");
        for (index, (name, value)) in self.members.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.push_str(&serde_json::Value::from(name.as_str()).to_string());
            text.push(':');
            text.push_str(value);
        }
        text.push('}');
        text
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Document;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut document = Document::default();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    document.set(&name, value.get());
                }
                Ok(document)
            }
        }

        deserializer.deserialize_map(Members)
    }
}
