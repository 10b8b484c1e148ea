//! Owns the names under which things stand in Redis.
//!
//! Invariant: value, sidecar, lease and recipe of one key lie in one slot of a Redis Cluster, and
//! no user key can be a name of ours. If the slots differed, no script could touch them together;
//! if a user's key could begin with our prefix, a value could be read as somebody else's sidecar.

use crate::error::Error;

/// The longest user key. Redis would take more; an index of keys and a log line would not.
pub const KEY_BYTES_MAX: usize = 1024;

/// Names of ours begin so; user keys may not.
pub const RESERVED_PREFIX: &str = "pgc:";

/// What SCAN looks for to find every entry that was filled by pg_cache.
pub const SIDECAR_PATTERN: &str = "pgc:e:*";

/// What the names of all leases match, as Redis' patterns go.
pub const LEASE_PATTERN: &str = "pgc:l:*";

/// The slots of a Redis Cluster.
pub const SLOTS: usize = 16384;

const TAG_BYTES: usize = 3;
const SIDECAR_PREFIX: &[u8] = b"pgc:e:{";
const LEASE_PREFIX: &[u8] = b"pgc:l:{";
const RECIPE_PREFIX: &[u8] = b"pgc:q:{";
const TOKEN_PREFIX: &[u8] = b"pgc:s:{";
const RECORD_PREFIX: &[u8] = b"pgc:o:{";
const LIMIT_PREFIX: &[u8] = b"pgc:r:{";
const TAG_END: &[u8] = b"}:";
const NAME_HEAD_BYTES: usize = SIDECAR_PREFIX.len() + TAG_BYTES + TAG_END.len();
const SCOPE_HEX_DIGITS: usize = 16;
const FAMILY_BYTES_MAX: usize = 32;
pub const FAMILY_OTHER: &str = "(other)";

/// Whether a user may cache under this key.
pub fn check(key: &[u8]) -> Result<(), Error> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Error::KeyTooLong { bytes: key.len(), bytes_max: KEY_BYTES_MAX });
    }
    check_not_ours(key)
}

/// Refuses a name, of a channel too, that begins as pg_cache's own do.
pub fn check_not_ours(name: &[u8]) -> Result<(), Error> {
    if name.starts_with(RESERVED_PREFIX.as_bytes()) {
        return Err(Error::KeyReserved { prefix: RESERVED_PREFIX });
    }
    Ok(())
}

/// The slot of a key, as Redis Cluster computes it.
pub fn slot(key: &[u8]) -> u16 {
    crc16(hashed_part(key)) % SLOTS as u16
}

/// Three letters or digits whose slot is `slot` (taken modulo the number of slots). In braces they
/// put a name of ours into the slot of a key that itself cannot always be spelled in braces.
pub fn slot_tag(slot: u16) -> [u8; TAG_BYTES] {
    SLOT_TAGS[slot as usize % SLOTS]
}

/// What stands before a value's name in those of its sidecar, its lease and its token.
pub fn heads(value: &[u8]) -> [[u8; NAME_HEAD_BYTES]; 3] {
    let tag = slot_tag(slot(value));
    [SIDECAR_PREFIX, LEASE_PREFIX, TOKEN_PREFIX].map(|prefix| {
        let mut head = [0; NAME_HEAD_BYTES];
        let (kind, rest) = head.split_at_mut(prefix.len());
        let (slot, end) = rest.split_at_mut(TAG_BYTES);
        kind.copy_from_slice(prefix);
        slot.copy_from_slice(&tag);
        end.copy_from_slice(TAG_END);
        head
    })
}

/// The names of one entry, in one buffer: a sidecar's name ends with the value's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryKeys {
    sidecar: Vec<u8>,
}

impl EntryKeys {
    pub fn new(key: &[u8]) -> Self {
        Self::joined(&[], key)
    }

    /// Of a key in two parts.
    pub fn joined(prefix: &[u8], key: &[u8]) -> Self {
        let mut sidecar = Vec::with_capacity(NAME_HEAD_BYTES + prefix.len() + key.len());
        sidecar.extend_from_slice(SIDECAR_PREFIX);
        sidecar.extend_from_slice(&slot_tag(0));
        sidecar.extend_from_slice(TAG_END);
        sidecar.extend_from_slice(prefix);
        sidecar.extend_from_slice(key);
        let tag = slot_tag(slot(&sidecar[NAME_HEAD_BYTES..]));
        sidecar[SIDECAR_PREFIX.len()..][..TAG_BYTES].copy_from_slice(&tag);
        EntryKeys { sidecar }
    }

    pub fn value(&self) -> &[u8] {
        &self.sidecar[NAME_HEAD_BYTES..]
    }

    pub fn sidecar(&self) -> &[u8] {
        &self.sidecar
    }

    pub fn lease(&self) -> Vec<u8> {
        [LEASE_PREFIX, &self.sidecar[SIDECAR_PREFIX.len()..]].concat()
    }

    /// Where the last transaction that stores this key leaves its mark until it has done so.
    pub fn token(&self) -> Vec<u8> {
        [TOKEN_PREFIX, &self.sidecar[SIDECAR_PREFIX.len()..]].concat()
    }

    pub fn recipe(&self) -> Vec<u8> {
        [RECIPE_PREFIX, &self.sidecar[SIDECAR_PREFIX.len()..]].concat()
    }
}

/// What a stream has been given of the outbox of each database: a hash beside the stream.
pub fn stream_record(stream: &[u8]) -> Vec<u8> {
    [RECORD_PREFIX, &slot_tag(slot(stream))[..], TAG_END, stream].concat()
}

/// Where a rate limit stands: in a space of its own, so that whoever may ask for one, and that is
/// everybody, can neither read nor change anything else.
pub fn limit(name: &[u8]) -> Vec<u8> {
    [LIMIT_PREFIX, &slot_tag(slot(name))[..], TAG_END, name].concat()
}

/// The user's key of a sidecar's name; None if no sidecar of ours is named so.
pub fn key_of_sidecar(name: &[u8]) -> Option<&[u8]> {
    let (tag, rest) = name.strip_prefix(SIDECAR_PREFIX)?.split_first_chunk::<TAG_BYTES>()?;
    let key = rest.strip_prefix(TAG_END)?;
    (slot_tag(slot(key)) == *tag).then_some(key)
}

/// The key of an entry that holds only for one scope (role and settings) of row security.
pub fn scoped(key: &[u8], scope: u64) -> Vec<u8> {
    let mut scoped = key.to_vec();
    scoped.extend_from_slice(format!("#{scope:0width$x}", width = SCOPE_HEX_DIGITS).as_bytes());
    scoped
}

/// What the statistics group a key by: the text before its first colon. A key without a colon is
/// a family of its own only if it looks like a name: numbers and long texts would make one family
/// per key.
pub fn family(key: &str) -> &str {
    let key = without_scope(key);
    match key.split_once(':') {
        Some((family, _)) => family,
        None if key.len() <= FAMILY_BYTES_MAX && !key.contains(|c: char| c.is_numeric()) => key,
        None => FAMILY_OTHER,
    }
}

fn without_scope(key: &str) -> &str {
    match key.rsplit_once('#') {
        Some((base, hex))
            if hex.len() == SCOPE_HEX_DIGITS
                && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) =>
        {
            base
        }
        _ => key,
    }
}

/// The part of a key that Redis Cluster hashes: what stands between the first `{` and the first
/// `}` behind it, unless that is nothing.
fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&b| b == b'{') else { return key };
    let behind = &key[open + 1..];
    match behind.iter().position(|&b| b == b'}') {
        Some(length) if length > 0 => &behind[..length],
        _ => key,
    }
}

/// CRC16/XMODEM, the one that Redis Cluster specifies.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| crc16_step(crc, *byte))
}

const fn crc16_step(crc: u16, byte: u8) -> u16 {
    (crc << 8) ^ CRC16[((crc >> 8) as u8 ^ byte) as usize]
}

static SLOT_TAGS: [[u8; TAG_BYTES]; SLOTS] = slot_tags();

static CRC16: [u16; 256] = crc16_table();

const fn crc16_table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// For every slot the first tag, in the order of the alphabet, that hashes to it. These bytes are
/// part of names in Redis: another order would orphan every entry.
const fn slot_tags() -> [[u8; TAG_BYTES]; SLOTS] {
    const ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut tags = [[0; TAG_BYTES]; SLOTS];
    let mut left = SLOTS;
    let (mut i, mut j, mut k) = (0, 0, 0);
    while i < ALPHABET.len() && left > 0 {
        let crc = crc16_step(crc16_step(0, ALPHABET[i]), ALPHABET[j]);
        let slot = crc16_step(crc, ALPHABET[k]) as usize % SLOTS;
        if tags[slot][0] == 0 {
            tags[slot] = [ALPHABET[i], ALPHABET[j], ALPHABET[k]];
            left -= 1;
        }
        k += 1;
        if k == ALPHABET.len() {
            (j, k) = (j + 1, 0);
        }
        if j == ALPHABET.len() {
            (i, j) = (i + 1, 0);
        }
    }
    assert!(left == 0, "a slot has no tag");
    tags
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn slots_are_those_of_redis() {
        // Danger: on a cluster our sidecar lies on another node than the value it speaks for.
        // The numbers are the answers of Redis 7.0 to CLUSTER KEYSLOT.
        let answers: [(&[u8], u16); 19] = [
            (b"123456789", 0x31c3),
            (b"foo", 12182),
            (b"bar", 5061),
            (b"hello", 866),
            (b"user1000", 3443),
            (b"{user1000}.following", 3443),
            (b"foo{}{bar}", 8363),
            (b"foo{{bar}}zap", 4015),
            (b"foo{bar}{zap}", 5061),
            (b"{}", 15257),
            (b"{", 4092),
            (b"}{", 12793),
            (b"a{b", 13340),
            (b"order:{42", 7136),
            (b"{a}", 15495),
            (b"", 0),
            ("käse".as_bytes(), 7438),
            (b"\x00\xff\x80{\x01}\n", 4129),
            (b"\x00\xff\x80\n", 13745),
        ];
        for (key, expected) in answers {
            assert_eq!(slot(key), expected, "{}", key.escape_ascii());
        }
    }

    #[test]
    fn every_slot_has_a_tag_of_its_own() {
        // Danger: keys of one slot in 16384 cannot be cached on a cluster.
        let mut seen = BTreeSet::new();
        for wanted in 0..SLOTS as u16 {
            let tag = slot_tag(wanted);
            assert!(tag.iter().all(u8::is_ascii_alphanumeric), "{tag:?}");
            assert_eq!(slot(&tag), wanted);
            assert_eq!(slot(&[b"x{", &tag[..], b"}y"].concat()), wanted);
            assert!(seen.insert(tag));
        }
    }

    #[test]
    fn tags_never_change() {
        // Danger: a new release looks for its entries under other names, and orphans all of them.
        assert_eq!(&slot_tag(0), b"06S");
        assert_eq!(&slot_tag(1), b"2Gx");
        assert_eq!(&slot_tag(12182), b"9Le");
        assert_eq!(&slot_tag(16383), b"6ZJ");
        let all: Vec<u8> = (0..SLOTS as u16).flat_map(slot_tag).collect();
        assert_eq!(crate::sidecar::value_hash(&all), 0x5e12_8807_d848_7943);
    }

    #[test]
    fn names_of_an_entry_never_change() {
        // Danger: as above; and programs that look at Redis know these names from the documents.
        let keys = EntryKeys::new(b"foo");
        assert_eq!(keys.value(), b"foo");
        assert_eq!(keys.sidecar(), b"pgc:e:{9Le}:foo");
        assert_eq!(keys.lease(), b"pgc:l:{9Le}:foo");
        assert_eq!(keys.recipe(), b"pgc:q:{9Le}:foo");
        assert_eq!(keys.token(), b"pgc:s:{9Le}:foo");
        assert_eq!(stream_record(b"foo"), b"pgc:o:{9Le}:foo");
        assert_eq!(limit(b"foo"), b"pgc:r:{9Le}:foo");
        assert_eq!(scoped(b"top", 0xbeef), b"top#000000000000beef");
    }

    #[test]
    fn a_key_is_refused_for_length_and_prefix_only() {
        // Danger: a legal key fails in production, or a user writes into our own names.
        let longest = vec![b'k'; KEY_BYTES_MAX];
        assert_eq!(check(&longest), Ok(()));
        let longer = vec![b'k'; KEY_BYTES_MAX + 1];
        assert_eq!(
            check(&longer),
            Err(Error::KeyTooLong { bytes: KEY_BYTES_MAX + 1, bytes_max: KEY_BYTES_MAX })
        );
        for reserved in ["pgc:", "pgc:e:{06S}:x"] {
            assert_eq!(
                check(reserved.as_bytes()),
                Err(Error::KeyReserved { prefix: RESERVED_PREFIX })
            );
        }
        for legal in ["", "pgc", "pgcx:1", "PGC:1", "a b\n{}*?[", "käse", "xpgc:"] {
            assert_eq!(check(legal.as_bytes()), Ok(()), "{legal}");
        }
    }

    #[test]
    fn other_names_are_no_sidecars() {
        // Danger: redis_flush deletes what some program happened to name like a sidecar.
        let sidecar = EntryKeys::new(b"foo").sidecar().to_vec();
        assert_eq!(key_of_sidecar(&sidecar), Some(&b"foo"[..]));
        let lease = EntryKeys::new(b"foo").lease();
        let cut = &sidecar[..sidecar.len() - 4];
        let other_tag = sidecar.replace_tag(b"000");
        for name in [&b""[..], b"pgc:e:", b"pgc:e:{", b"pgc:e:{ab", b"foo", &lease, cut, &other_tag]
        {
            assert_eq!(key_of_sidecar(name), None, "{}", name.escape_ascii());
        }
    }

    trait ReplaceTag {
        fn replace_tag(&self, tag: &[u8; TAG_BYTES]) -> Vec<u8>;
    }

    impl ReplaceTag for Vec<u8> {
        fn replace_tag(&self, tag: &[u8; TAG_BYTES]) -> Vec<u8> {
            let mut name = self.clone();
            name[SIDECAR_PREFIX.len()..][..TAG_BYTES].copy_from_slice(tag);
            name
        }
    }

    #[test]
    fn families_are_few_and_speak() {
        // Danger: one row of statistics per key, or all keys in one row.
        for (key, expected) in [
            ("user:42", "user"),
            ("user:42:orders", "user"),
            ("top_carriers", "top_carriers"),
            ("report2013", "(other)"),
            ("a-key-without-a-colon-of-33-bytes", "(other)"),
            ("", ""),
            (":x", ""),
            ("top_carriers#0123456789abcdef", "top_carriers"),
            ("user:42#0123456789abcdef", "user"),
            ("top#0123456789ABCDEF", "(other)"),
            ("top#0123456789abcde", "(other)"),
            ("top#me", "top#me"),
        ] {
            assert_eq!(family(key), expected, "{key}");
        }
    }

    proptest! {
        #[test]
        fn an_entry_lies_in_one_slot(key in prop::collection::vec(any::<u8>(), 0..80)) {
            // Danger: the fill script is refused with CROSSSLOT for some keys and nobody knows why.
            let keys = EntryKeys::new(&key);
            prop_assert_eq!(slot(keys.value()), slot(keys.sidecar()));
            prop_assert_eq!(slot(keys.value()), slot(&keys.lease()));
            prop_assert_eq!(slot(keys.value()), slot(&keys.recipe()));
            prop_assert_eq!(slot(keys.value()), slot(&keys.token()));
            prop_assert_eq!(slot(&key), slot(&stream_record(&key)));
            prop_assert_eq!(key_of_sidecar(keys.sidecar()), Some(&key[..]));
        }

        #[test]
        fn braces_do_not_move_an_entry(key in "[{}a:]{0,12}") {
            // Danger: as above, for the keys whose own braces decide where they lie.
            let keys = EntryKeys::new(key.as_bytes());
            prop_assert_eq!(slot(keys.value()), slot(keys.sidecar()));
            prop_assert_eq!(slot(keys.value()), slot(&keys.lease()));
            prop_assert_eq!(slot(keys.value()), slot(&keys.recipe()));
            prop_assert_eq!(slot(keys.value()), slot(&keys.token()));
            prop_assert_eq!(key_of_sidecar(keys.sidecar()), Some(key.as_bytes()));
        }

        #[test]
        fn the_scope_plays_no_part_in_the_family(key in "\\PC{0,40}", scope in any::<u64>()) {
            // Danger: row-secured entries of one query fall into as many families as roles.
            let scoped = String::from_utf8(scoped(key.as_bytes(), scope)).unwrap();
            let unscoped = without_scope(&key);
            // A key that itself ends like a scope keeps that end, which has digits in it.
            prop_assume!(unscoped == key);
            prop_assert_eq!(family(&scoped), family(&key));
        }
    }
}
