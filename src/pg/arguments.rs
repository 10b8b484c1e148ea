//! `$1, $2, …` of the query: taken from the call, typed or not.

use std::ffi::CString;

use pg_cache_core::error::Error;
use pg_cache_core::fingerprint::FingerprintBuilder;
use pgrx::pg_sys;

use super::call::Call;
use super::error::{Outcome, catch};

/// One argument as it was given.
#[derive(Clone, Copy)]
pub struct Argument {
    /// InvalidOid: untyped, and the value is a C string for the input function of the type that the
    /// query itself infers.
    pub type_oid: pg_sys::Oid,
    pub value: Option<pg_sys::Datum>,
}

/// One argument as the query takes it.
#[derive(Clone, Copy)]
pub struct Bound {
    pub type_oid: pg_sys::Oid,
    pub value: Option<pg_sys::Datum>,
}

/// Arguments from position `first` on: those of `VARIADIC "any"`, or the one array of them.
pub fn typed(call: &Call, first: usize) -> Outcome<Vec<Argument>> {
    if call.count() == first + 1 && call.is_variadic() {
        return Ok(elements(call, first));
    }
    (first..call.count()).map(|index| one(call, index, index - first + 1)).collect()
}

fn one(call: &Call, index: usize, position: usize) -> Outcome<Argument> {
    let type_oid = call.type_of(index);
    let value = call.datum(index);
    if type_oid == pg_sys::UNKNOWNOID {
        return Ok(Argument { type_oid: pg_sys::InvalidOid, value });
    }
    // SAFETY: a catalogue look-up.
    let kind = unsafe { pg_sys::get_typtype(type_oid) };
    if kind as u8 == pg_sys::TYPTYPE_PSEUDO {
        let type_name = super::classify::type_name(type_oid);
        return Err(Error::ArgumentPseudoType { position, type_name }.into());
    }
    Ok(Argument { type_oid, value })
}

/// Arguments of the `text[]` overload: untyped, as drivers send them.
pub fn untyped(call: &Call, first: usize) -> Vec<Argument> {
    elements(call, first)
        .into_iter()
        .map(|element| Argument {
            type_oid: pg_sys::InvalidOid,
            value: element.value.map(|text| {
                // SAFETY: makes a palloc'ed C string of a text datum.
                pg_sys::Datum::from(unsafe { pg_sys::text_to_cstring(text.cast_mut_ptr()) })
            }),
        })
        .collect()
}

/// The members of a `name[]` argument, each once; a NULL array has none.
pub fn names(call: &Call, index: usize) -> Outcome<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for element in elements(call, index) {
        let name = element.value.ok_or(Error::NullArgument { name: "column" })?;
        // SAFETY: the array's declared type is name[].
        let name = super::text::name(unsafe { &*name.cast_mut_ptr::<pg_sys::NameData>() });
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// The members of an array argument; a NULL array has none.
fn elements(call: &Call, index: usize) -> Vec<Argument> {
    call.datum(index).map(members).unwrap_or_default()
}

/// The members of an array.
pub fn members(array: pg_sys::Datum) -> Vec<Argument> {
    // SAFETY: the caller knows the datum for an array by its type.
    let array = unsafe { pg_sys::pg_detoast_datum(array.cast_mut_ptr()) };
    let array = array.cast::<pg_sys::ArrayType>();
    // SAFETY: the header of a detoasted array.
    let type_oid = unsafe { (*array).elemtype };
    let (mut length, mut by_value, mut align) = (0i16, false, 0);
    // SAFETY: a catalogue look-up into three locals.
    unsafe {
        pg_sys::get_typlenbyvalalign(type_oid, &raw mut length, &raw mut by_value, &raw mut align);
    }
    let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
    // SAFETY: fills palloc'ed arrays of `count` members.
    unsafe {
        pg_sys::deconstruct_array(
            array,
            type_oid,
            i32::from(length),
            by_value,
            align,
            &raw mut values,
            &raw mut nulls,
            &raw mut count,
        );
    }
    let count = usize::try_from(count).unwrap_or(0);
    if count == 0 {
        return Vec::new();
    }
    // SAFETY: as said above.
    let values = unsafe { std::slice::from_raw_parts(values, count) };
    // SAFETY: as said above.
    let nulls = unsafe { std::slice::from_raw_parts(nulls, count) };
    let member = |(value, null): (&pg_sys::Datum, &bool)| Argument {
        type_oid,
        value: (!null).then_some(*value),
    };
    values.iter().zip(nulls).map(member).collect()
}

/// A text as it goes to Redis: in UTF-8, or by its bytes where it has none.
pub fn for_redis(value: Option<pg_sys::Datum>, name: &'static str) -> Outcome<Box<[u8]>> {
    let bytes = super::text::bytes(value.ok_or(Error::NullArgument { name })?);
    let utf8 = super::text::to_utf8(bytes);
    Ok(utf8.map_or_else(|| bytes.into(), |utf8| utf8.into_owned().into()))
}

/// The members of a `text[]` argument, as they go to Redis; a NULL array has none.
pub fn all_for_redis(call: &Call, index: usize, name: &'static str) -> Outcome<Vec<Box<[u8]>>> {
    elements(call, index).into_iter().map(|element| for_redis(element.value, name)).collect()
}

/// Gives untyped arguments the types that the query takes: its input function reads them.
pub fn bind(arguments: &[Argument], types: &[pg_sys::Oid]) -> Outcome<Vec<Bound>> {
    let bound = |(argument, type_oid): (&Argument, &pg_sys::Oid)| {
        let value = match argument.value {
            Some(text) if argument.type_oid == pg_sys::InvalidOid => {
                Some(read_text(*type_oid, text)?)
            }
            value => value,
        };
        Ok(Bound { type_oid: *type_oid, value })
    };
    arguments.iter().zip(types).map(bound).collect()
}

unsafe extern "C-unwind" {
    /// Without pgrx's guard, so that `catch` keeps the error whole.
    fn OidInputFunctionCall(
        function: pg_sys::Oid,
        text: *mut std::ffi::c_char,
        typioparam: pg_sys::Oid,
        typmod: i32,
    ) -> pg_sys::Datum;
}

/// What PostgreSQL makes of a literal of that type.
pub fn read_text(type_oid: pg_sys::Oid, text: pg_sys::Datum) -> Outcome<pg_sys::Datum> {
    let (mut function, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
    // SAFETY: a catalogue look-up into two locals.
    unsafe { pg_sys::getTypeInputInfo(type_oid, &raw mut function, &raw mut parameter) };
    let text = text.cast_mut_ptr();
    // SAFETY: an input function of the catalogue and a C string.
    let read = || unsafe { OidInputFunctionCall(function, text, parameter, -1) };
    // SAFETY: one C call over plain values; its error ends the statement.
    unsafe { catch(read) }
}

/// The parameters for the executor, palloc'ed.
pub fn parameter_list(bound: &[Bound]) -> pg_sys::ParamListInfo {
    if bound.is_empty() {
        return std::ptr::null_mut();
    }
    let count = i32::try_from(bound.len()).unwrap_or(i32::MAX);
    // SAFETY: allocates room for that many parameters.
    let list = unsafe { pg_sys::makeParamList(count) };
    // SAFETY: just allocated.
    let fields = unsafe { &mut *list };
    // SAFETY: the flexible array has as many members as asked for.
    let slots = unsafe { fields.params.as_mut_slice(bound.len()) };
    for (slot, argument) in slots.iter_mut().zip(bound) {
        slot.value = argument.value.unwrap_or(pg_sys::Datum::from(0usize));
        slot.isnull = argument.value.is_none();
        slot.pflags = pg_sys::PARAM_FLAG_CONST as u16;
        slot.ptype = argument.type_oid;
    }
    list
}

/// Adds types and values: the bytes of the datum, since texts can be equal where values are not.
pub fn add_to(builder: &mut FingerprintBuilder, bound: &[Bound]) {
    for argument in bound {
        builder.number("argument type", u64::from(argument.type_oid.to_u32()));
        match argument.value {
            None => builder.bytes("null argument", &[]),
            Some(value) => add_datum(builder, argument.type_oid, value),
        }
    }
}

fn add_datum(builder: &mut FingerprintBuilder, type_oid: pg_sys::Oid, value: pg_sys::Datum) {
    let (mut length, mut by_value) = (0i16, false);
    // SAFETY: a catalogue look-up into two locals.
    unsafe { pg_sys::get_typlenbyval(type_oid, &raw mut length, &raw mut by_value) };
    if by_value {
        return builder.number("argument", value.value() as u64);
    }
    match usize::try_from(length) {
        // SAFETY: a fixed-length type by reference has exactly that many bytes.
        Ok(length) => builder.bytes("argument", unsafe {
            std::slice::from_raw_parts(value.cast_mut_ptr::<u8>(), length)
        }),
        Err(_) if length == -1 => builder.bytes("argument", super::text::bytes(value)),
        // SAFETY: what is left are C strings.
        Err(_) => builder.bytes("argument", unsafe {
            std::ffi::CStr::from_ptr(value.cast_mut_ptr()).to_bytes()
        }),
    }
}

/// The value's own bytes, from which `restored` makes it again: of NULL none. None at all for a
/// type that keeps its values in another way than columns do.
pub fn bytes_of(argument: &Bound) -> Option<Option<Vec<u8>>> {
    let Some(value) = argument.value else { return Some(None) };
    let (mut length, mut by_value) = (0i16, false);
    // SAFETY: a catalogue look-up into two locals.
    unsafe { pg_sys::get_typlenbyval(argument.type_oid, &raw mut length, &raw mut by_value) };
    if by_value {
        return Some(Some((value.value() as u64).to_le_bytes().to_vec()));
    }
    let bytes = match usize::try_from(length) {
        // SAFETY: a fixed-length type by reference has exactly that many bytes.
        Ok(length) => unsafe { std::slice::from_raw_parts(value.cast_mut_ptr::<u8>(), length) },
        Err(_) if length == -1 => super::text::bytes(value),
        Err(_) => return None,
    };
    Some(Some(bytes.to_vec()))
}

/// The argument whose bytes were kept by this very database. None if the type is of another size
/// now.
pub fn restored(type_oid: u32, bytes: Option<&[u8]>) -> Option<Argument> {
    let type_oid = pg_sys::Oid::from(type_oid);
    let Some(bytes) = bytes else { return Some(Argument { type_oid, value: None }) };
    let (mut length, mut by_value) = (0i16, false);
    // SAFETY: a catalogue look-up into two locals.
    unsafe { pg_sys::get_typlenbyval(type_oid, &raw mut length, &raw mut by_value) };
    let value = match usize::try_from(length) {
        _ if by_value => pg_sys::Datum::from(u64::from_le_bytes(bytes.try_into().ok()?)),
        Ok(length) if length == bytes.len() => fixed(bytes),
        Err(_) if length == -1 => super::text::datum(bytes),
        _ => return None,
    };
    Some(Argument { type_oid, value: Some(value) })
}

fn fixed(bytes: &[u8]) -> pg_sys::Datum {
    // SAFETY: room for that many bytes.
    let copy = unsafe { pg_sys::palloc(bytes.len()) }.cast::<u8>();
    // SAFETY: both have that many bytes, and do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy, bytes.len()) };
    pg_sys::Datum::from(copy)
}

/// The text of an untyped argument or a text datum, for reading a ttl.
pub fn c_text(datum: pg_sys::Datum) -> CString {
    // SAFETY: the datum of an unknown literal is a C string.
    unsafe { std::ffi::CStr::from_ptr(datum.cast_mut_ptr()) }.to_owned()
}
