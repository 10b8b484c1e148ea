//! Owns the key templates of triggers, such as `user:{id}`: how they are read, and how the values
//! of a row become a key.
//!
//! A placeholder is the name of a column in braces, spelled as in the catalogue; `{{` and `}}`
//! stand for braces. Values are put in as they are, but for the bytes `%`, `:`, `#`, `{` and `}`,
//! which become `%25`, `%3A`, `%23`, `%7B` and `%7D`: a colon separates the parts of a key, `#`
//! begins the scope of an entry under row security, and braces choose the slot on a cluster.
//! Between two placeholders must stand something that no value can contain: one of these bytes but
//! the percent sign, or another punctuation character, which is then escaped in the values of this
//! template too. In `{a}-{b}` that is the hyphen, `%2D`.
//!
//! Invariant: two different lists of values never give the same key, no value can look like a
//! separator, and none can make a name of ours. If one could, whoever chooses a value (a user's
//! name) would decide which other key is deleted, or written.

use crate::error::Error;
use crate::key::{KEY_BYTES_MAX, RESERVED_PREFIX};

/// What is escaped in the values of every template.
const ESCAPED: &[u8] = b"%:#{}";

/// A template as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The text before the first placeholder.
    head: Vec<u8>,
    /// Each placeholder, as the place of its column, and the text behind it.
    parts: Vec<(usize, Vec<u8>)>,
    /// Each once, in the order in which they first occur.
    columns: Vec<String>,
    /// Separators beyond `ESCAPED` that values must not contain.
    separators: Vec<u8>,
}

impl Template {
    pub fn parse(text: &str) -> Result<Template, Error> {
        let mut template = Template {
            head: Vec::new(),
            parts: Vec::new(),
            columns: Vec::new(),
            separators: vec![],
        };
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (literal, from) = rest.split_at(at);
            template.last().extend_from_slice(literal.as_bytes());
            rest = match from.as_bytes() {
                [b'{', b'{', ..] | [b'}', b'}', ..] => {
                    template.last().push(from.as_bytes()[0]);
                    &from[2..]
                }
                [b'{', ..] => template.placeholder(&from[1..]).map_err(|why| invalid(text, why))?,
                _ => return Err(invalid(text, "A } has no { before it; write }} for a brace.")),
            };
        }
        template.last().extend_from_slice(rest.as_bytes());
        template.check(text)?;
        Ok(template)
    }

    /// The columns whose values it takes, each once. Their places are what `render` asks for.
    pub fn columns(&self) -> impl ExactSizeIterator<Item = &str> {
        self.columns.iter().map(String::as_str)
    }

    /// Appends the key of a row; `value` gives the text of a column by its place, in UTF-8. A key
    /// of more than [`KEY_BYTES_MAX`] bytes is written too: nothing can be cached under it.
    pub fn render<V: AsRef<[u8]>, E>(
        &self,
        out: &mut Vec<u8>,
        mut value: impl FnMut(usize) -> Result<V, E>,
    ) -> Result<(), E> {
        let start = out.len();
        out.extend_from_slice(&self.head);
        for (column, text) in &self.parts {
            self.escape(out, value(*column)?.as_ref());
            out.extend_from_slice(text);
        }
        // Only text and values together can spell our prefix. The escape of a p is nothing that any
        // other value gives, so the key stays this row's alone.
        if out[start..].starts_with(RESERVED_PREFIX.as_bytes()) {
            out.splice(start..=start, escape_of(RESERVED_PREFIX.as_bytes()[0]));
        }
        Ok(())
    }

    /// Whether some row's values give this key, as far as their bytes can tell.
    pub fn may_give(&self, key: &[u8]) -> bool {
        let Some(mut rest) = key.strip_prefix(&self.head[..]) else { return false };
        let Some(((_, tail), between)) = self.parts.split_last() else { return rest.is_empty() };
        let is_value = |bytes: &[u8]| {
            !bytes.iter().any(|byte| separates(*byte) || self.separators.contains(byte))
        };
        for (_, text) in between {
            let found = rest.windows(text.len()).position(|part| part == text);
            let Some(at) = found.filter(|at| is_value(&rest[..*at])) else { return false };
            rest = &rest[at + text.len()..];
        }
        rest.strip_suffix(&tail[..]).is_some_and(is_value)
    }

    fn escape(&self, out: &mut Vec<u8>, value: &[u8]) {
        // No letter or digit is ever escaped, and most values have nothing else.
        if value.iter().all(u8::is_ascii_alphanumeric) {
            return out.extend_from_slice(value);
        }
        for byte in value {
            if ESCAPED.contains(byte) || self.separators.contains(byte) {
                out.extend_from_slice(&escape_of(*byte));
            } else {
                out.push(*byte);
            }
        }
    }

    /// The text that grows while the template is read.
    fn last(&mut self) -> &mut Vec<u8> {
        self.parts.last_mut().map_or(&mut self.head, |(_, text)| text)
    }

    /// Reads a placeholder from behind its opening brace on.
    fn placeholder<'t>(&mut self, from: &'t str) -> Result<&'t str, &'static str> {
        let Some(end) = from.find(['{', '}']).filter(|end| from.as_bytes()[*end] == b'}') else {
            return Err("A { has no } behind it; write {{ for a brace.");
        };
        let name = &from[..end];
        if name.is_empty() {
            return Err("A placeholder has no column name.");
        }
        let known = self.columns.iter().position(|column| column == name);
        let place = known.unwrap_or(self.columns.len());
        if known.is_none() {
            self.columns.push(name.to_owned());
        }
        self.parts.push((place, Vec::new()));
        Ok(&from[end + 1..])
    }

    fn check(&mut self, text: &str) -> Result<(), Error> {
        let literals = self.parts.iter().map(|(_, text)| text.len()).sum::<usize>();
        let bytes = self.head.len() + literals;
        if bytes > KEY_BYTES_MAX {
            return Err(Error::KeyTooLong { bytes, bytes_max: KEY_BYTES_MAX });
        }
        if self.head.starts_with(RESERVED_PREFIX.as_bytes()) {
            return Err(Error::KeyReserved { prefix: RESERVED_PREFIX });
        }
        let between = self.parts.len().saturating_sub(1);
        for (_, separator) in &self.parts[..between] {
            if separator.iter().any(|byte| separates(*byte) || self.separators.contains(byte)) {
                continue;
            }
            match separator.iter().find(|byte| byte.is_ascii_punctuation() && **byte != b'%') {
                Some(byte) => self.separators.push(*byte),
                None => {
                    return Err(invalid(text, "Nothing separates the values of two placeholders."));
                }
            }
        }
        Ok(())
    }
}

/// Whether a byte is escaped in every value and part of no escape.
fn separates(byte: u8) -> bool {
    byte != b'%' && ESCAPED.contains(&byte)
}

fn escape_of(byte: u8) -> [u8; 3] {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    [b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]
}

fn invalid(text: &str, why: &str) -> Error {
    Error::TemplateInvalid { text: text.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn render(template: &str, values: &[&str]) -> String {
        let template = Template::parse(template).unwrap();
        assert_eq!(template.columns().len(), values.len());
        let mut out = Vec::new();
        let Ok(()) = template.render(&mut out, |place| Ok::<_, Infallible>(values[place]));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_stand_in_their_places() {
        // Danger: the key of the trigger is not the key of the reader, and old values stay.
        assert_eq!(render("user:{id}", &["42"]), "user:42");
        assert_eq!(render("org:{org_id}:users", &["7"]), "org:7:users");
        assert_eq!(render("{b}:{a}:{b}", &["2", "1"]), "2:1:2");
        assert_eq!(render("all users", &[]), "all users");
        assert_eq!(render("", &[]), "");
        assert_eq!(render("{{{a}}}:x", &["7"]), "{7}:x");
        assert_eq!(render("{Größe in cm}", &["ä b\n/._-|,"]), "ä b\n/._-|,");
        let template = Template::parse("{b}:{a}:{b}").unwrap();
        assert_eq!(template.columns().collect::<Vec<_>>(), ["b", "a"]);
    }

    #[test]
    fn a_key_that_it_gives_is_known() {
        // Danger: redis_explain promises a reader that a trigger deletes a key that none names.
        let gives =
            |template, key: &str| Template::parse(template).unwrap().may_give(key.as_bytes());
        for (template, yes, no) in [
            ("user:{id}", "user:42", "user:42:x"),
            ("user:{id}", "user:", "users:42"),
            ("org:{a}:u:{b}", "org:7:u:8", "org:7:8"),
            ("org:{a}:users", "org:7:users", "org:7:8:users"),
            ("{a}-{b}", "1-2", "1-2-3"),
            ("all", "all", "all!"),
        ] {
            assert!(gives(template, yes), "{template} {yes}");
            assert!(!gives(template, no), "{template} {no}");
        }
    }

    #[test]
    fn values_cannot_forge_a_separator() {
        // Danger: a user named "7:orders" deletes the orders of user 7.
        assert_eq!(render("user:{name}", &["7:orders"]), "user:7%3Aorders");
        assert_eq!(render("user:{name}", &["7%3Aorders"]), "user:7%253Aorders");
        assert_eq!(render("user:{name}", &["7#0123456789abcdef"]), "user:7%230123456789abcdef");
        assert_eq!(render("user:{name}", &["{slot}"]), "user:%7Bslot%7D");
        assert_eq!(render("{a}-{b}", &["x-1", "y"]), "x%2D1-y");
        assert_eq!(render("{a}-{b}/{c}", &["a-/", "b-/", "c-/"]), "a%2D%2F-b%2D%2F/c%2D%2F");
        assert_eq!(render("{a}-:-{b}", &["x-1", "y"]), "x-1-:-y");
    }

    #[test]
    fn no_value_makes_a_name_of_ours() {
        // Danger: a user named pgc deletes the tag table.
        assert_eq!(render("{name}:t:x", &["pgc"]), "%70gc:t:x");
        assert_eq!(render("p{name}c:x", &["g"]), "%70gc:x");
        assert_eq!(render("{name}", &["pgc:t:x"]), "pgc%3At%3Ax");
        assert_eq!(render("{name}:x", &["xpgc"]), "xpgc:x");
        // Only the key's own beginning counts, not that of what was there before it.
        let mut out = b"pgc:".to_vec();
        let template = Template::parse("x").unwrap();
        let Ok(()) = template.render(&mut out, |_| Ok::<_, Infallible>(""));
        assert_eq!(out, b"pgc:x");
    }

    #[test]
    fn a_wrong_template_is_refused_with_the_reason() {
        // Danger: a trigger that fails at the first write, or worse, deletes other keys.
        for (text, reason) in [
            ("user:{}", "no column name"),
            ("user:{id", "no } behind"),
            ("user:{id{x}", "no } behind"),
            ("user:id}", "no { before"),
            ("user:{id}}", "no { before"),
            ("{", "no } behind"),
            ("{{}", "no { before"),
            ("{a}{b}", "Nothing separates"),
            ("{a}x{b}", "Nothing separates"),
            ("{a}%{b}", "Nothing separates"),
            ("{a} {b}", "Nothing separates"),
        ] {
            let Err(Error::TemplateInvalid { text: named, why }) = Template::parse(text) else {
                panic!("{text} was not refused");
            };
            assert_eq!(named, text);
            assert!(why.contains(reason), "{text}: {why}");
        }
        let reserved = Template::parse("pgc:t:{id}");
        assert_eq!(reserved, Err(Error::KeyReserved { prefix: RESERVED_PREFIX }));
        let longest = "x".repeat(KEY_BYTES_MAX);
        assert!(Template::parse(&longest).is_ok());
        let longer = Template::parse(&format!("{longest}{{id}}y"));
        let bytes = KEY_BYTES_MAX + 1;
        assert_eq!(longer, Err(Error::KeyTooLong { bytes, bytes_max: KEY_BYTES_MAX }));
    }

    #[test]
    fn an_error_of_a_value_ends_the_rendering() {
        // Danger: a key with a hole where a NULL was.
        let template = Template::parse("{a}:{b}").unwrap();
        let failed = template.render(&mut Vec::new(), |place| match place {
            0 => Ok("x"),
            _ => Err("b is null"),
        });
        assert_eq!(failed, Err("b is null"));
    }

    /// Texts and values in which everything that could be confused is frequent.
    const CONFUSING: &str = "[pgc:%372570AF#{}/x-]{0,4}";

    prop_compose! {
        fn templates()(
            head in CONFUSING, texts in vec(CONFUSING, 1..4), columns in vec("[ab]", 3),
        ) -> String {
            let braced = |text: &str| text.replace('{', "{{").replace('}', "}}");
            let parts = texts.iter().zip(columns);
            let parts = parts.map(|(text, column)| format!("{{{column}}}{}", braced(text)));
            braced(&head) + &parts.collect::<String>()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn different_values_give_different_keys(
            text in templates(), one in vec(CONFUSING, 2), other in vec(CONFUSING, 2),
        ) {
            // Danger: who chooses a value chooses which other row's key is deleted.
            let Ok(template) = Template::parse(&text) else { return Ok(()) };
            let key = |values: &[String]| {
                let mut out = Vec::new();
                let Ok(()) = template.render(&mut out, |at| Ok::<_, Infallible>(&values[at]));
                out
            };
            let used = template.columns().len();
            prop_assert_eq!(key(&one) == key(&other), one[..used] == other[..used]);
            prop_assert!(!key(&one).starts_with(RESERVED_PREFIX.as_bytes()));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "[{}a:é]{0,12}") {
            // Danger: CREATE TRIGGER with a slip of the pen ends the session.
            let _ = Template::parse(&text);
        }
    }
}
