//! A call from SQL: its arguments, their types, and where a set of rows goes.

use pgrx::pg_sys;

use super::error::Outcome;
use super::text;

/// Declares one SQL function: the symbol, its `pg_finfo_` record, and the body that serves it.
macro_rules! sql_function {
    ($symbol:ident, $finfo:ident, $body:path) => {
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $symbol(
            fcinfo: pgrx::pg_sys::FunctionCallInfo,
        ) -> pgrx::pg_sys::Datum {
            $crate::pg::call::serve(fcinfo, $body)
        }

        #[unsafe(no_mangle)]
        pub extern "C" fn $finfo() -> &'static pgrx::pg_sys::Pg_finfo_record {
            const V1: pgrx::pg_sys::Pg_finfo_record =
                pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }
    };
}

/// Runs the body of an SQL function behind the door for errors.
pub fn serve(
    fcinfo: pg_sys::FunctionCallInfo,
    body: fn(&Call) -> Outcome<pg_sys::Datum>,
) -> pg_sys::Datum {
    super::error::enter(|| {
        let call = Call { fcinfo };
        let datum = body(&call)?;
        super::host::fault_point("api.return");
        Ok(datum)
    })
}

/// The call being served. Valid for its duration only.
pub struct Call {
    fcinfo: pg_sys::FunctionCallInfo,
}

impl Call {
    fn info(&self) -> &pg_sys::FunctionCallInfoBaseData {
        // SAFETY: PostgreSQL keeps the call's data alive while it runs the function.
        unsafe { &*self.fcinfo }
    }

    pub fn count(&self) -> usize {
        usize::try_from(self.info().nargs).unwrap_or(0)
    }

    fn argument(&self, index: usize) -> Option<&pg_sys::NullableDatum> {
        // SAFETY: the flexible array has nargs members.
        let arguments = unsafe { self.info().args.as_slice(self.count()) };
        arguments.get(index)
    }

    /// The argument's value; `None` for NULL or an argument that was not given.
    pub fn datum(&self, index: usize) -> Option<pg_sys::Datum> {
        self.argument(index).filter(|argument| !argument.isnull).map(|argument| argument.value)
    }

    /// The declared or inferred type of an argument; a literal without a type is `unknown`.
    pub fn type_of(&self, index: usize) -> pg_sys::Oid {
        let index = i32::try_from(index).unwrap_or(i32::MAX);
        // SAFETY: reads the expression that the call was planned from.
        unsafe { pg_sys::get_fn_expr_argtype(self.info().flinfo, index) }
    }

    /// Whether the call was written with the keyword VARIADIC.
    pub fn is_variadic(&self) -> bool {
        // SAFETY: reads the expression that the call was planned from.
        unsafe { pg_sys::get_fn_expr_variadic(self.info().flinfo) }
    }

    /// A text argument in the server's encoding.
    pub fn text(&self, index: usize) -> Option<String> {
        self.datum(index).map(text::owned)
    }

    /// The schema that this function stands in, and with it all of pg_cache.
    pub fn function_schema(&self) -> String {
        // SAFETY: the call has its function's look-up data.
        let function = unsafe { (*self.info().flinfo).fn_oid };
        // SAFETY: a catalogue look-up.
        let schema = unsafe { pg_sys::get_func_namespace(function) };
        // SAFETY: a palloc'ed name, or NULL.
        text::c_string(unsafe { pg_sys::get_namespace_name(schema) })
    }

    /// The result of a function that returns nothing.
    pub fn void(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(0usize)
    }

    /// NULL as the result.
    pub fn null(&self) -> pg_sys::Datum {
        // SAFETY: the call's data is ours to write while the function runs.
        unsafe { (*self.fcinfo).isnull = true };
        pg_sys::Datum::from(0usize)
    }

    /// As C functions want it.
    pub fn raw(&self) -> pg_sys::FunctionCallInfo {
        self.fcinfo
    }

    /// What a trigger function is called with.
    pub fn context(&self) -> pg_sys::fmNodePtr {
        self.info().context
    }

    /// The node through which a set is returned.
    pub fn result_info(&self) -> pg_sys::fmNodePtr {
        self.info().resultinfo
    }
}
