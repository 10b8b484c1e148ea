//! `redis_invalidate('user:{id}', …)`: the keys of a row are gone from Redis before the commit
//! that changes it returns.
//!
//! Invariant: every key that the row had or has is noted. An UPDATE that leaves the columns of a
//! template alone has one key, any other two.

use std::cell::RefCell;

use pg_cache_core::error::{Error, Tracking};
use pg_cache_core::key;
use pg_cache_core::template::Template;

use crate::commit;
use crate::pg::call::Call;
use crate::pg::error::{Outcome, Raised};
use crate::pg::row_text::Writer;
use crate::pg::trigger::{Fired, Kept, Row};
use crate::pg::{Datum, classify, xact};

sql_function!(redis_invalidate, pg_finfo_redis_invalidate, invalidate);

thread_local! {
    static INVALIDATING: Kept<Keys> = const { Kept::new() };
    /// Reused from row to row.
    static KEY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The keys of one trigger.
struct Keys(Vec<Named>);

struct Named {
    template: Template,
    columns: Vec<Writer>,
}

impl Keys {
    fn new(fired: Fired<'_>) -> Outcome<Self> {
        let texts = fired.arguments();
        if texts.is_empty() {
            return Err(Error::from(Tracking::NoTemplate).into());
        }
        let named = texts.iter().map(|text| Named::new(fired, text));
        Ok(Self(named.collect::<Outcome<_>>()?))
    }
}

impl Named {
    fn new(fired: Fired<'_>, text: &str) -> Outcome<Self> {
        let template = Template::parse(text)?;
        if template.columns().len() > 0 && !fired.is_for_row() {
            let template = text.to_owned();
            return Err(Error::from(Tracking::Placeholder { template }).into());
        }
        let writer = |column: &str| match fired.relation().attribute(column) {
            Some(attribute) => Ok(Writer::new(attribute)),
            None => {
                let relation = fired.relation_name();
                let column = column.to_owned();
                Err(Raised::from(Error::from(Tracking::NoColumn { column, relation })))
            }
        };
        let columns = template.columns().map(writer).collect::<Outcome<_>>()?;
        Ok(Self { template, columns })
    }

    fn note(&self, row: Option<Row>) -> Outcome<()> {
        let mut key = KEY.take();
        key.clear();
        self.template.render(&mut key, |place| {
            let writer = &self.columns[place];
            let value = row.and_then(|row| row.value(writer.attribute));
            value.map(|value| writer.write(value)).ok_or_else(|| self.null(place))
        })?;
        // Nothing can be kept under a name that is none: the row need not fail for it.
        if key::check(&key).is_ok() {
            commit::note_key(&key)?;
        }
        KEY.set(key);
        Ok(())
    }

    fn null(&self, place: usize) -> Error {
        let column = self.template.columns().nth(place).unwrap_or_default().to_owned();
        Tracking::NullColumn { column }.into()
    }

    /// Whether an UPDATE moved the row to another key, as far as bytes tell.
    fn moved(&self, before: Row, after: Row) -> bool {
        self.columns.iter().any(|column| !before.same(after, column.attribute))
    }
}

fn invalidate(call: &Call) -> Outcome<Datum> {
    let fired = Fired::of(call).filter(|fired| fired.is_after()).ok_or_else(|| {
        let function = "redis_invalidate".to_owned();
        Error::from(Tracking::Protocol { function, wanted: "a trigger AFTER what changes rows" })
    })?;
    let keys = INVALIDATING.with(|kept| kept.get(fired, Keys::new))?;
    // A write to a foreign table takes no id here, and without one nothing is delivered.
    if xact::xid().is_none() && classify::is_foreign(fired.relation().oid()) {
        xact::assign_xid(c"redis_invalidate()");
    }
    if !fired.is_for_row() {
        for named in &keys.0 {
            named.note(None)?;
        }
        return Ok(Datum::from(0usize));
    }
    let (before, after) = (fired.row_before(), fired.row_after());
    for named in &keys.0 {
        named.note(after.or(before))?;
        if let (Some(before), Some(after)) = (before, after)
            && named.moved(before, after)
        {
            named.note(Some(before))?;
        }
    }
    Ok(Datum::from(0usize))
}
