//! What a fill leaves beside its entry, so that `redis_verify` can compute it again, and the way
//! back from there to a call.
//!
//! The invariant: a call made of a recipe has the fingerprint of the one that filled, or it is not
//! made. So whatever goes into a fingerprint stands in a recipe, or is the same for everybody.

use std::borrow::Cow;
use std::ffi::CString;

use pg_cache_core::recipe::{Argument, Recipe, Setting};

use crate::entry::Entry;
use crate::pg::arguments::{self, Bound};
use crate::pg::assume::{Assumed, Refused};
use crate::pg::plan::Plan;
use crate::pg::{Oid, guc, identity, settings};
use crate::read::Request;
use crate::registry::Registration;

/// The bytes of the recipe; empty where there is none: for results that may be older than their
/// rows nothing tells what they should be.
pub fn of(
    request: &Request<'_>,
    plan: &Plan,
    bound: &[Bound],
    entry: &Entry,
    registration: &Registration,
) -> Vec<u8> {
    kept(request, plan, bound, entry, registration).unwrap_or_default()
}

fn kept(
    request: &Request<'_>,
    plan: &Plan,
    bound: &[Bound],
    entry: &Entry,
    registration: &Registration,
) -> Option<Vec<u8>> {
    if !plan.is_exact() {
        return None;
    }
    let (role, session_role) = identity::roles();
    let argument = |bound: &Bound| {
        let type_oid = bound.type_oid.to_u32();
        Some(Argument { type_oid, value: arguments::bytes_of(bound)? })
    };
    let recipe = Recipe {
        generation: registration.generation,
        role: role.to_u32(),
        session_role: session_role.to_u32(),
        key: request.key.to_vec(),
        query: request.query.to_vec(),
        arguments: bound.iter().map(argument).collect::<Option<_>>()?,
        settings: present_settings(plan),
    };
    recipe.encode(&registration.secret, entry.keys.value())
}

/// Those that the rows, their text or the entry's scope can depend on.
fn present_settings(plan: &Plan) -> Vec<Setting> {
    let mut names: Vec<CString> = settings::names().map(CString::from).collect();
    names.push(c"pg_cache.scope_settings".into());
    let scope = guc::scope_settings().split(',').map(str::trim).filter(|name| !name.is_empty());
    let read = plan.analysis.settings.iter().map(String::as_str);
    names.extend(scope.chain(read).map(crate::pg::text::statement));
    let setting = |name: CString| Setting {
        value: settings::bytes(&name).map(CString::into_bytes),
        name: name.into_bytes(),
    };
    names.into_iter().map(setting).collect()
}

/// Becomes who asked, with the settings of then, until the value is dropped.
pub fn assume(recipe: &Recipe) -> Result<Assumed, Refused> {
    let text = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
    let setting = |setting: &Setting| (text(&setting.name), setting.value.as_deref().map(text));
    let settings: Vec<_> = recipe.settings.iter().map(setting).collect();
    Assumed::start(Oid::from(recipe.role), Oid::from(recipe.session_role), &settings)
}

/// The call that filled; None if an argument's type is another one now.
pub fn request(recipe: &Recipe) -> Option<Request<'_>> {
    let argument = |kept: &Argument| arguments::restored(kept.type_oid, kept.value.as_deref());
    Some(Request {
        key: Cow::Borrowed(&recipe.key),
        ttl_ms: 0,
        query: &recipe.query,
        arguments: recipe.arguments.iter().map(argument).collect::<Option<_>>()?,
    })
}
