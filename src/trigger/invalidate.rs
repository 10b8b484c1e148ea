//! `redis_invalidate('user:{id}', …)`: the keys of a row are gone from Redis before the commit
//! that changes it returns.
//!
//! Invariant: every key that the row had or has is noted. An UPDATE that leaves the columns of a
//! template alone has one key, any other two.

use std::cell::RefCell;

use pg_cache_core::error::{AFTER_A_CHANGE, Error, Flaw, Tracking};
use pg_cache_core::key;
use pg_cache_core::options::Known;
use pg_cache_core::template::Template;

use crate::commit;
use crate::pg::call::Call;
use crate::pg::error::{Outcome, Raised};
use crate::pg::row_text::Writer;
use crate::pg::trigger::{Attached, Fired, Kept, Row};
use crate::pg::{Datum, classify, xact};

use super::flawed;

sql_function!(redis_invalidate, pg_finfo_redis_invalidate, invalidate);

thread_local! {
    static INVALIDATING: Kept<Keys> = const { Kept::new() };
    /// Reused from row to row.
    static KEY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The keys of one trigger.
pub struct Keys(Vec<Named>);

struct Named {
    template: Template,
    columns: Vec<Writer>,
}

impl Keys {
    /// Reads what the trigger says, and names it if that is wrong.
    pub fn new(trigger: Attached<'_>) -> Outcome<Self> {
        Self::read(trigger).map_err(|flaw| flawed(trigger, flaw))
    }

    fn read(trigger: Attached<'_>) -> Result<Self, Flaw> {
        if !trigger.is_after() {
            return Err(Flaw::Timing { wanted: AFTER_A_CHANGE });
        }
        let texts = trigger.arguments();
        if texts.is_empty() || texts.iter().any(String::is_empty) {
            return Err(Flaw::NoKey);
        }
        let named = texts.iter().map(|text| Named::new(trigger, text));
        Ok(Self(named.collect::<Result<_, Flaw>>()?))
    }
}

impl Named {
    fn new(trigger: Attached<'_>, text: &str) -> Result<Self, Flaw> {
        let template = Template::parse(text).map_err(|error| Flaw::Target(Box::new(error)))?;
        if template.columns().len() > 0 && !trigger.is_for_row() {
            return Err(Flaw::Placeholder { template: text.to_owned() });
        }
        let writer = |column: &str| match trigger.relation().attribute(column) {
            Some(attribute) => {
                let known = Known { name: column, is_virtual: attribute.is_virtual };
                known.with_value().map(|()| Writer::new(attribute))
            }
            None => Err(Flaw::NoColumn { column: column.to_owned() }),
        };
        let columns = template.columns().map(writer).collect::<Result<_, Flaw>>()?;
        Ok(Self { template, columns })
    }

    fn note(&self, fired: Fired<'_>, row: Option<Row>) -> Outcome<()> {
        let mut key = KEY.take();
        key.clear();
        self.template.render(&mut key, |place| {
            let writer = &self.columns[place];
            let value = row.and_then(|row| row.value(writer.attribute));
            value.map(|value| writer.write(value)).ok_or_else(|| self.null(fired, place))
        })?;
        // Nothing can be kept under a name that is none: the row need not fail for it.
        if key::check(&key).is_ok() {
            commit::note_key(&key)?;
        }
        KEY.set(key);
        Ok(())
    }

    fn null(&self, fired: Fired<'_>, place: usize) -> Raised {
        let column = self.template.columns().nth(place).unwrap_or_default().to_owned();
        flawed(fired.attached(), Flaw::NullColumn { column })
    }

    /// Whether an UPDATE moved the row to another key, as far as bytes tell.
    fn moved(&self, before: Row, after: Row) -> bool {
        self.columns.iter().any(|column| !before.same(after, column.attribute))
    }
}

fn invalidate(call: &Call) -> Outcome<Datum> {
    let fired = Fired::of(call).ok_or_else(|| {
        let function = "redis_invalidate".to_owned();
        Error::from(Tracking::Protocol { function, wanted: "a trigger AFTER what changes rows" })
    })?;
    let keys = INVALIDATING.with(|kept| kept.get(fired, |fired| Keys::new(fired.attached())))?;
    // A write to a foreign table takes no id here, and without one nothing is delivered.
    if xact::xid().is_none() && classify::is_foreign(fired.relation().oid()) {
        xact::assign_xid(c"redis_invalidate()");
    }
    if !fired.is_for_row() {
        for named in &keys.0 {
            named.note(fired, None)?;
        }
        return Ok(Datum::from(0usize));
    }
    let (before, after) = (fired.row_before(), fired.row_after());
    for named in &keys.0 {
        named.note(fired, after.or(before))?;
        if let (Some(before), Some(after)) = (before, after)
            && named.moved(before, after)
        {
            named.note(fired, Some(before))?;
        }
    }
    Ok(Datum::from(0usize))
}
