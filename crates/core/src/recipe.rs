//! Owns the bytes from which an entry can be computed again: query, arguments, roles, settings.
//!
//! Invariant: a recipe is followed only if PostgreSQL wrote it for this very entry. It ends with a
//! keyed hash over all of it and the entry's name, under a secret that never leaves PostgreSQL.
//! Without that, whoever can write Redis could have an operator run any query as any role; without
//! the name, a recipe that was written for one entry could be laid beside another.

use crate::fields::Fields;

/// The format that this release writes, and the only one it reads.
pub const FORMAT: u8 = 1;

/// Larger recipes are not kept: the entry is served, and nobody recomputes it.
pub const RECIPE_BYTES_MAX: usize = 64 * 1024;

/// Separates these hashes from every other use of BLAKE3 over the same bytes.
const CONTEXT: &str = "pg_cache recipe v1";

const MAC_BYTES: usize = 32;

/// What only this database knows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Option<[u8; 32]>);

impl Secret {
    /// An empty text is none: then nothing is written and nothing is read.
    pub fn of(text: &str) -> Self {
        Self((!text.is_empty()).then(|| blake3::derive_key(CONTEXT, text.as_bytes())))
    }

    fn mac(&self, name: &[u8], body: &[u8]) -> Option<blake3::Hash> {
        let mut hasher = blake3::Hasher::new_keyed(self.0.as_ref()?);
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name);
        hasher.update(body);
        Some(hasher.finalize())
    }
}

/// Never shown, not by accident either.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// How an entry was computed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipe {
    pub generation: u128,
    /// Oids of the role that asked and of its session's.
    pub role: u32,
    pub session_role: u32,
    /// The caller's key, without the prefix and scope that the entry's name has.
    pub key: Vec<u8>,
    /// In the server's encoding.
    pub query: Vec<u8>,
    pub arguments: Vec<Argument>,
    pub settings: Vec<Setting>,
}

/// An argument as the query took it: the value's own bytes, which mean the same to every session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    pub type_oid: u32,
    pub value: Option<Vec<u8>>,
}

/// A setting and its value; one that is not set differs from one that is set to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub name: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

/// Why bytes are no recipe to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Of a format that this release does not read.
    Version(u8),
    /// Not written by this database for this entry.
    Forged,
}

impl Recipe {
    /// Little endian, fixed order; None without a secret, or if it would be too large.
    pub fn encode(&self, secret: &Secret, name: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        bytes.extend_from_slice(&self.role.to_le_bytes());
        bytes.extend_from_slice(&self.session_role.to_le_bytes());
        write(&mut bytes, &self.key)?;
        write(&mut bytes, &self.query)?;
        write_count(&mut bytes, self.arguments.len())?;
        for argument in &self.arguments {
            bytes.extend_from_slice(&argument.type_oid.to_le_bytes());
            write_optional(&mut bytes, argument.value.as_deref())?;
        }
        write_count(&mut bytes, self.settings.len())?;
        for setting in &self.settings {
            write(&mut bytes, &setting.name)?;
            write_optional(&mut bytes, setting.value.as_deref())?;
        }
        let mac = secret.mac(name, &bytes)?;
        bytes.extend_from_slice(mac.as_bytes());
        (bytes.len() <= RECIPE_BYTES_MAX).then_some(bytes)
    }

    /// The recipe of the entry of this name, for any bytes whatever. Nothing of them is looked at
    /// but the version before they are known to be ours.
    pub fn open(bytes: &[u8], secret: &Secret, name: &[u8]) -> Result<Recipe, Refused> {
        if let Some(version) = bytes.first().filter(|version| **version != FORMAT) {
            return Err(Refused::Version(*version));
        }
        let (body, mac) = bytes.split_last_chunk::<MAC_BYTES>().ok_or(Refused::Forged)?;
        // This comparison takes the same time wherever the two differ.
        if bytes.len() > RECIPE_BYTES_MAX || secret.mac(name, body) != Some((*mac).into()) {
            return Err(Refused::Forged);
        }
        let mut fields = Fields { rest: body.get(1..).unwrap_or_default() };
        let recipe = fields.recipe().filter(|_| fields.rest.is_empty());
        recipe.ok_or(Refused::Forged)
    }
}

fn write_count(bytes: &mut Vec<u8>, count: usize) -> Option<()> {
    bytes.extend_from_slice(&u32::try_from(count).ok()?.to_le_bytes());
    Some(())
}

fn write(bytes: &mut Vec<u8>, field: &[u8]) -> Option<()> {
    write_count(bytes, field.len())?;
    bytes.extend_from_slice(field);
    // No more is copied once it is known to be too much.
    (bytes.len() <= RECIPE_BYTES_MAX).then_some(())
}

fn write_optional(bytes: &mut Vec<u8>, field: Option<&[u8]>) -> Option<()> {
    bytes.push(u8::from(field.is_some()));
    field.map_or(Some(()), |field| write(bytes, field))
}

impl Fields<'_> {
    fn recipe(&mut self) -> Option<Recipe> {
        Some(Recipe {
            generation: u128::from_le_bytes(self.take()?),
            role: u32::from_le_bytes(self.take()?),
            session_role: u32::from_le_bytes(self.take()?),
            key: self.bytes()?,
            query: self.bytes()?,
            arguments: self.list(|fields| {
                let type_oid = u32::from_le_bytes(fields.take()?);
                Some(Argument { type_oid, value: fields.optional()? })
            })?,
            settings: self.list(|fields| {
                Some(Setting { name: fields.bytes()?, value: fields.optional()? })
            })?,
        })
    }

    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = u32::from_le_bytes(self.take()?);
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Some(items)
    }

    fn optional(&mut self) -> Option<Option<Vec<u8>>> {
        match self.take()? {
            [0] => Some(None),
            [1] => Some(Some(self.bytes()?)),
            _ => None,
        }
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let length = u32::from_le_bytes(self.take()?) as usize;
        let (field, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(field.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: &[u8] = b"app:top";

    fn secret() -> Secret {
        Secret::of("0123456789abcdef")
    }

    fn example() -> Recipe {
        let setting = |name: &str, value: Option<&str>| Setting {
            name: name.into(),
            value: value.map(|value| value.as_bytes().to_vec()),
        };
        Recipe {
            generation: 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210,
            role: 10,
            session_role: 16_400,
            key: b"top".to_vec(),
            query: b"SELECT $1, $2".to_vec(),
            arguments: vec![
                Argument { type_oid: 23, value: Some(42u64.to_le_bytes().to_vec()) },
                Argument { type_oid: 25, value: None },
            ],
            settings: vec![
                setting("TimeZone", Some("UTC")),
                setting("search_path", Some("")),
                setting("app.tenant", None),
            ],
        }
    }

    fn sealed(recipe: &Recipe) -> Vec<u8> {
        recipe.encode(&secret(), NAME).unwrap()
    }

    #[test]
    fn format_1_is_frozen() {
        // Danger: a changed layout under an unchanged version: every recipe of the other release
        // is taken for a forged one, or means another query.
        let golden = include_bytes!("../tests/golden/recipe-1.bin");
        assert_eq!(sealed(&example()), golden, "{}", sealed(&example()).escape_ascii());
        assert_eq!(Recipe::open(golden, &secret(), NAME), Ok(example()));
    }

    #[test]
    fn a_recipe_belongs_to_one_entry_of_one_database() {
        // Danger: a query that a role ran for itself is run for another entry; or one that another
        // database, or nobody, wrote.
        let bytes = sealed(&example());
        let forged = Err(Refused::Forged);
        assert_eq!(Recipe::open(&bytes, &secret(), b"app:to"), forged);
        assert_eq!(Recipe::open(&bytes, &secret(), b"app:top#0123456789abcdef"), forged);
        assert_eq!(Recipe::open(&bytes, &Secret::of("0123456789abcdeg"), NAME), forged);
        assert_eq!(Recipe::open(&bytes, &Secret::default(), NAME), forged);
        assert_eq!(Recipe::open(b"", &secret(), NAME), forged);
        assert_eq!(Recipe::open(&[FORMAT], &secret(), NAME), forged);
    }

    #[test]
    fn without_a_secret_nothing_is_written() {
        // Danger: a hash under a key that everybody knows.
        assert_eq!(Secret::of(""), Secret::default());
        assert_eq!(example().encode(&Secret::default(), NAME), None);
    }

    #[test]
    fn a_secret_is_not_shown() {
        // Danger: a message or a log that prints what surrounds it.
        assert_eq!(format!("{:?}", secret()), "Secret");
    }

    #[test]
    fn a_recipe_is_bounded() {
        // Danger: an argument of a gigabyte stands in Redis twice.
        let query = |bytes: usize| Recipe { query: vec![b' '; bytes], ..Recipe::default() };
        let overhead = sealed(&query(0)).len();
        let most = query(RECIPE_BYTES_MAX - overhead);
        assert_eq!(Recipe::open(&sealed(&most), &secret(), NAME), Ok(most));
        assert_eq!(query(RECIPE_BYTES_MAX - overhead + 1).encode(&secret(), NAME), None);
    }

    #[test]
    fn another_format_is_told_from_a_forged_one() {
        // Danger: after an upgrade the operator is told that somebody forges recipes.
        let mut bytes = sealed(&example());
        bytes[0] = FORMAT + 1;
        assert_eq!(Recipe::open(&bytes, &secret(), NAME), Err(Refused::Version(FORMAT + 1)));
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..12)
    }

    prop_compose! {
        fn recipes()(
            generation in any::<u128>(),
            (role, session_role) in any::<(u32, u32)>(),
            key in bytes(),
            query in bytes(),
            arguments in prop::collection::vec((any::<u32>(), prop::option::of(bytes())), 0..4),
            settings in prop::collection::vec((bytes(), prop::option::of(bytes())), 0..4),
        ) -> Recipe {
            let argument = |(type_oid, value)| Argument { type_oid, value };
            let setting = |(name, value)| Setting { name, value };
            Recipe {
                generation, role, session_role, key, query,
                arguments: arguments.into_iter().map(argument).collect(),
                settings: settings.into_iter().map(setting).collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(recipe in recipes(), name in bytes()) {
            // Danger: an entry is compared with what another query, role or argument gives.
            let bytes = recipe.encode(&secret(), &name).unwrap();
            prop_assert_eq!(Recipe::open(&bytes, &secret(), &name), Ok(recipe));
        }

        #[test]
        fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            // Danger: bytes that anybody wrote make a backend panic, or run.
            prop_assert!(Recipe::open(&bytes, &secret(), NAME).is_err());
        }

        #[test]
        fn any_body_is_read_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            // Danger: as above, for whoever has the secret: an older release of ours.
            let bytes = [&[FORMAT], &body[..]].concat();
            let mac = secret().mac(NAME, &bytes).unwrap();
            let bytes = [&bytes[..], mac.as_bytes()].concat();
            if let Ok(recipe) = Recipe::open(&bytes, &secret(), NAME) {
                prop_assert_eq!(sealed(&recipe), bytes);
            }
        }

        #[test]
        fn one_flipped_bit_is_a_forgery(
            recipe in recipes(), at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            // Danger: another role in the place of the one that asked.
            let mut bytes = sealed(&recipe);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Recipe::open(&bytes, &secret(), NAME).is_err());
        }
    }
}
