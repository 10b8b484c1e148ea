//! Which entry a call means: its Redis keys, its scope, its fingerprint, and what it depends on.

use pg_cache_core::fingerprint::{FingerprintBuilder, scope_hash};
use pg_cache_core::key::{self, EntryKeys};
use pg_cache_core::tag::{Buckets, Tag, Tags};

use crate::pg::arguments::{self, Bound};
use crate::pg::plan::Plan;
use crate::pg::{classify, guc, host, identity, settings};
use crate::registry::Registration;

pub struct Entry {
    pub keys: EntryKeys,
    pub fingerprint: [u8; 16],
    /// Names and values that have entries of their own; empty for a plain entry.
    pub scope: Vec<(String, String)>,
    /// What the rows depend on: the catalogue first, then the key itself.
    pub tags: Tags,
    /// The same as buckets of the tag table.
    pub buckets: Buckets,
}

impl Entry {
    pub fn new(registration: &Registration, key: &[u8], plan: &Plan, bound: &[Bound]) -> Self {
        let scope = scope(plan);
        let fingerprint = fingerprint(plan, bound, &scope);
        let prefix = &registration.prefix[..];
        let keys = if scope.is_empty() {
            EntryKeys::joined(prefix, key)
        } else {
            let parts: Vec<_> = scope.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            EntryKeys::new(&key::scoped(&[prefix, key].concat(), scope_hash(&parts)))
        };
        // The tag of the key is that of its plain form: who names it means every scope.
        let mut tags = Tags::new();
        tags.push(Tag::CATALOGUE);
        if !host::skips("guard.keytag") {
            tags.push(Tag::key(key));
        }
        plan.append_tags(bound, &mut tags);
        let buckets = tags.iter().map(|tag| registration.bucket(*tag)).collect();
        Self { keys, fingerprint, scope, tags, buckets }
    }
}

/// Row security gives each role and each value of the settings that its policies read other rows,
/// so each has a key of its own; so do the values of `pg_cache.scope_settings`.
fn scope(plan: &Plan) -> Vec<(String, String)> {
    let analysis = &plan.analysis;
    let mut scope = Vec::new();
    if analysis.row_secured {
        let (user, session_user) = identity::roles();
        scope.push(("role".to_owned(), classify::role_name(user)));
        scope.push(("session role".to_owned(), classify::role_name(session_user)));
        scope.extend(analysis.settings.iter().map(|name| named_value(name)));
    }
    let always = guc::scope_settings().split(',').map(str::trim).filter(|name| !name.is_empty());
    scope.extend(always.map(named_value));
    scope
}

/// A setting that is not set differs from one that is set to nothing.
fn named_value(name: &str) -> (String, String) {
    let value = settings::value(name).map_or_else(|| "unset".to_owned(), |v| format!("={v}"));
    (name.to_owned(), value)
}

/// Whatever can change the rows or their text: what the plan is, and what this call brings.
fn fingerprint(plan: &Plan, bound: &[Bound], scope: &[(String, String)]) -> [u8; 16] {
    let analysis = &plan.analysis;
    let opaque = analysis.is_opaque();
    let roles = analysis.reads_role() || analysis.row_secured || opaque;
    let settled = !roles && bound.is_empty() && scope.is_empty() && analysis.settings.is_empty();
    if settled {
        return plan.fixed_fingerprint;
    }
    let mut builder: FingerprintBuilder = plan.identity();
    if roles {
        let (user, session_user) = identity::roles();
        builder.number("role", u64::from(user.to_u32()));
        builder.number("session role", u64::from(session_user.to_u32()));
        // The query may show the name, which can change.
        builder.text("role name", &classify::role_name(user));
        builder.text("session role name", &classify::role_name(session_user));
    }
    for (name, value) in scope {
        builder.text("scope", name);
        builder.text("value", value);
    }
    for (name, value) in analysis.settings.iter().map(|name| named_value(name)) {
        builder.text("setting", &name);
        builder.text("value", &value);
    }
    if opaque {
        let mut custom = Vec::new();
        settings::append_custom(&mut custom);
        builder.bytes("custom settings", &custom);
    }
    arguments::add_to(&mut builder, bound);
    builder.finish()
}
