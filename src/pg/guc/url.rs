//! Refuses an address at SET, where the mistake is made, instead of at the first read.

use std::ffi::{CString, c_char, c_void};

use pg_cache_core::target::Target;
use pgrx::{pg_guard, pg_sys};

use crate::pg::text;

/// The check hook of `pg_cache.url`.
#[pg_guard]
pub unsafe extern "C-unwind" fn check(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL hands a pointer to the proposed value, which may be NULL.
    let proposed = unsafe { *value };
    match Target::parse(&text::c_string(proposed)) {
        Ok(_) => true,
        Err(error) => {
            let detail = error.detail().unwrap_or_else(|| error.message());
            complain(&detail, error.hint().as_deref());
            false
        }
    }
}

/// GUC_check_errmsg and its like are macros over these globals: set them likewise. PostgreSQL's own
/// message would repeat the value, and with it the password.
fn complain(detail: &str, hint: Option<&str>) {
    let duplicate = |text: &str| {
        let text = CString::new(text.replace('\0', "")).unwrap_or_default();
        // SAFETY: copies the text into the current memory context, which outlives the error.
        unsafe { pg_sys::pstrdup(text.as_ptr()) }
    };
    let message = duplicate("invalid value for parameter \"pg_cache.url\"");
    let (detail, hint) = (duplicate(detail), hint.map(duplicate));
    // SAFETY: as below.
    unsafe { pg_sys::GUC_check_errmsg_string = message };
    // SAFETY: globals of guc.c that belong to the check hook which runs now.
    unsafe { pg_sys::GUC_check_errdetail_string = detail };
    if let Some(hint) = hint {
        // SAFETY: as above.
        unsafe { pg_sys::GUC_check_errhint_string = hint };
    }
}
