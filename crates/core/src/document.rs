//! Owns a JSON object as bytes: its members in their order, each as it is written.
//!
//! Invariant: a member that nobody sets is written as it was read. Parsed into numbers and written
//! again, 1e400 would be lost and 1.10 be another text. What looks at every member finds its like
//! by a map: payloads have hundreds of thousands, and nobody can cancel what is done here.

use std::collections::HashMap;
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
        let (of_text, of_jsonb) = (text.places(), jsonb.places());
        for (name, value) in &mut self.members {
            if let Some(&before) = of_jsonb.get(&**name)
                && jsonb.members[before].1 == *value
                && let Some(&kept) = of_text.get(&**name)
            {
                value.clone_from(&text.members[kept].1);
            }
        }
        let place = |name: &str| of_text.get(name).copied().unwrap_or(usize::MAX);
        self.members.sort_by_key(|(name, _)| place(name));
    }

    /// Where the first member of each name stands.
    fn places(&self) -> HashMap<&str, usize> {
        let mut places = HashMap::with_capacity(self.members.len());
        for (at, (name, _)) in self.members.iter().enumerate() {
            places.entry(&**name).or_insert(at);
        }
        places
    }

    /// Leaves one member of each name: the value of the last, in the place of the first.
    fn unite(&mut self) {
        let places = self.places();
        if places.len() == self.members.len() {
            return;
        }
        let firsts: Vec<usize> = self.members.iter().map(|(name, _)| places[&**name]).collect();
        let mut members: Vec<Option<(String, Box<str>)>> =
            std::mem::take(&mut self.members).into_iter().map(Some).collect();
        for (at, first) in firsts.into_iter().enumerate().filter(|(at, first)| at != first) {
            let later = members[at].take();
            if let (Some((_, value)), Some((_, text))) = (&mut members[first], later) {
                *value = text;
            }
        }
        self.members = members.into_iter().flatten().collect();
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
                    document.members.push((name, value.get().into()));
                }
                document.unite();
                Ok(document)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn of_a_name_that_comes_twice_the_last_counts() {
        // Danger: a member is lost, or moves, or an application reads another value than SQL.
        let document = Document::parse(r#"{"b":1.10,"a":1,"b":2,"c":1e400,"a":3,"b":4.0}"#);
        let mut document = document.unwrap();
        assert_eq!(document.to_text(), r#"{"b":4.0,"a":3,"c":1e400}"#);
        assert_eq!(document.remove("a").as_deref(), Some("3"));
        document.set("d", "null");
        document.set("b", "5");
        assert_eq!(document.to_text(), r#"{"b":5,"c":1e400,"d":null}"#);
        assert_eq!(document.get("a"), None);
    }

    #[test]
    fn many_members_take_no_time_that_anybody_notices() {
        // Danger: a backend that computes for hours and hears no cancel. Compared each with each,
        // so many would take minutes.
        let text = |last: &str| {
            let mut text = String::from("{");
            for number in 0..200_000 {
                write!(text, "\"k{number}\":{number},").unwrap();
            }
            text + last
        };
        let began = Instant::now();
        let before = Document::parse(&text(r#""z":1.10,"k7":7}"#)).unwrap();
        let jsonb = Document::parse(&text(r#""z":1.1}"#)).unwrap();
        let mut now = Document::parse(&text(r#""y":0,"z":1.1,"k199999":0}"#)).unwrap();
        now.keep(&before, &jsonb);
        let took = began.elapsed();
        assert!(now.to_text().ends_with(r#""k199998":199998,"k199999":0,"z":1.10,"y":0}"#));
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
}
