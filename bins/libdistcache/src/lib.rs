//! `libdistcache`: the blocking client as C programs know it; `include/distcache/dc_client.h` says what
//! each function does.
//!
//! It runs inside other people's servers, so a call may fail and nothing else: it never ends the
//! process, prints nothing, and raises no signal. Nothing here can panic, which the lints below see
//! to; should a layer below do so all the same, `call` makes a failure of it.
//!
//! `unsafe` is what C's pointers need, and all of it says the same: the header asks for pointers to
//! as many bytes as the length beside them says, that stay as they are during the call.
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]
#![allow(non_snake_case, non_camel_case_types, reason = "the names are those that C programs use")]

mod call;
mod cancel;
mod reason;
mod recent;
mod reserve;
mod target;
mod thread;

use std::ffi::{c_char, c_int, c_uchar, c_uint, c_ulong};
use std::ptr;
use std::time::Duration;

use distcache_core::id::Id;
use distcache_core::message::TTL_MAX;
use distcache_core::wire::PAYLOAD_MAX;
use distcache_posix::client::Client;

use call::{call, caught, last_words};
use reason::Reason;
use recent::Number;

/// What C programs hold a pointer to: a client, and the deadline that it has if nobody sets another.
pub struct DC_CTX {
    client: Client,
    usual: Duration,
    /// Its mark in each thread's memory of the last fetch.
    number: Number,
}

impl DC_CTX {
    /// The client, for a call that asks the cache: what the thread has fetched before is not the last
    /// call's any more.
    fn asked(&self) -> &Client {
        recent::forget(self.number);
        &self.client
    }
}

impl Drop for DC_CTX {
    fn drop(&mut self) {
        recent::retire(self.number);
    }
}

/// Threads share it: that it can be is for the compiler to say.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<DC_CTX>();
};

/// Makes a context for the server or proxy at `target`; null where that can't be.
///
/// # Safety
/// `target` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn DC_CTX_new(target: *const c_char, flags: c_uint) -> *mut DC_CTX {
    call(ptr::null_mut(), || {
        // SAFETY: the caller's promise.
        let target = unsafe { target::text(target)? };
        let (client, usual) = target::client(target, flags)?;
        let ctx = reserve::boxed(DC_CTX { client, usual, number: Number::next() });
        // What comes from the reserve goes back there at the end of the call.
        match ctx.filter(|_| !reserve::used()) {
            Some(ctx) => Ok(Box::into_raw(ctx)),
            None => Err(Reason::Said("no memory")),
        }
    })
}

/// Closes the connections of a context, and forgets it. Null is no context.
///
/// # Safety
/// `ctx` is null, or came from [`DC_CTX_new`] and is used by nobody any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn DC_CTX_free(ctx: *mut DC_CTX) {
    // Not a call whose outcome anyone asks for: the reason of the one before is still to be had.
    caught(|| {
        if !ctx.is_null() {
            // SAFETY: the caller's promise.
            drop(unsafe { Box::from_raw(ctx) });
        }
    });
}

/// Stores a session where the id is free.
///
/// # Safety
/// `ctx` is null or a context; `id` and `session` are null or have as many bytes as is said.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn DC_CTX_add_session(
    ctx: *mut DC_CTX,
    id: *const c_uchar,
    id_len: c_uint,
    session: *const c_uchar,
    session_len: c_uint,
    timeout_msecs: c_ulong,
) -> c_int {
    call(0, || {
        // SAFETY: the caller's promise.
        let (ctx, id, session) =
            unsafe { (context(ctx)?, name(id, id_len)?, content(session, session_len)?) };
        ctx.asked().add(ttl(timeout_msecs), id, session)?;
        Ok(1)
    })
}

/// Stores a session in place of what is there.
///
/// # Safety
/// As with [`DC_CTX_add_session`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn DC_CTX_put_session(
    ctx: *mut DC_CTX,
    id: *const c_uchar,
    id_len: c_uint,
    session: *const c_uchar,
    session_len: c_uint,
    timeout_msecs: c_ulong,
) -> c_int {
    call(0, || {
        // SAFETY: the caller's promise.
        let (ctx, id, session) =
            unsafe { (context(ctx)?, name(id, id_len)?, content(session, session_len)?) };
        ctx.asked().put(ttl(timeout_msecs), id, session)?;
        Ok(1)
    })
}

/// Forgets a session.
///
/// # Safety
/// `ctx` is null or a context; `id` is null or has as many bytes as is said.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn DC_CTX_remove_session(
    ctx: *mut DC_CTX,
    id: *const c_uchar,
    id_len: c_uint,
) -> c_int {
    call(0, || {
        // SAFETY: the caller's promise.
        let (ctx, id) = unsafe { (context(ctx)?, name(id, id_len)?) };
        match ctx.asked().remove(id)? {
            true => Ok(1),
            false => Err(Reason::NotThere),
        }
    })
}

/// Whether there is a session: 1 or 0, or -1 where nobody could tell.
///
/// # Safety
/// As with [`DC_CTX_remove_session`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn DC_CTX_has_session(
    ctx: *mut DC_CTX,
    id: *const c_uchar,
    id_len: c_uint,
) -> c_int {
    let there = call(-1, || {
        // SAFETY: the caller's promise.
        let (ctx, id) = unsafe { (context(ctx)?, name(id, id_len)?) };
        Ok(c_int::from(ctx.asked().has(id)?))
    });
    if there == 0 {
        call::explain(&Reason::NotThere);
    }
    there
}

/// Fetches a session.
///
/// # Safety
/// `ctx` is null or a context; `id` is null or has as many bytes as is said; `result` is null or has
/// room for as many as is said, `used` is null or has room for a number, and neither lies in the other.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn DC_CTX_get_session(
    ctx: *mut DC_CTX,
    id: *const c_uchar,
    id_len: c_uint,
    result: *mut c_uchar,
    result_size: c_uint,
    used: *mut c_uint,
) -> c_int {
    call(0, || {
        // SAFETY: the caller's promise.
        let (out, ctx, id) =
            unsafe { (Out::new(result, result_size, used)?, context(ctx)?, name(id, id_len)?) };
        let found = ctx.asked().get_with(id, |session| {
            recent::remember(ctx.number, id, session);
            out.fill(session);
        })?;
        found.map(|()| 1).ok_or(Reason::NotThere)
    })
}

/// What this thread's last get fetched through this context, if it was this id.
///
/// # Safety
/// As with [`DC_CTX_get_session`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn DC_CTX_reget_session(
    ctx: *mut DC_CTX,
    id: *const c_uchar,
    id_len: c_uint,
    result: *mut c_uchar,
    result_size: c_uint,
    used: *mut c_uint,
) -> c_int {
    call(0, || {
        // SAFETY: the caller's promise.
        let (out, ctx, id) =
            unsafe { (Out::new(result, result_size, used)?, context(ctx)?, name(id, id_len)?) };
        let found = recent::recall(ctx.number, id, |session| out.fill(session));
        found
            .map(|()| 1)
            .ok_or(Reason::Said("this thread's last call on this context did not fetch it"))
    })
}

/// Fetches a session and forgets it, such that of several who do so one gets it.
///
/// # Safety
/// As with [`DC_CTX_get_session`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn DC_CTX_take_session(
    ctx: *mut DC_CTX,
    id: *const c_uchar,
    id_len: c_uint,
    result: *mut c_uchar,
    result_size: c_uint,
    used: *mut c_uint,
) -> c_int {
    call(0, || {
        // SAFETY: the caller's promise.
        let (out, ctx, id) =
            unsafe { (Out::new(result, result_size, used)?, context(ctx)?, name(id, id_len)?) };
        let client = ctx.asked();
        // What does not fit would be lost: the cache has it no more.
        if !recent::reserve(ctx.number) && out.size < PAYLOAD_MAX {
            return Err(Reason::Said("no memory"));
        }
        let found = client.take_with(id, |session| {
            recent::remember(ctx.number, id, session);
            out.fill(session);
        })?;
        found.map(|()| 1).ok_or(Reason::NotThere)
    })
}

/// Sets how long each operation may take; 0 for as long as a new context of this target has.
///
/// # Safety
/// `ctx` is null or a context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn DC_CTX_set_timeout(ctx: *mut DC_CTX, msecs: c_uint) -> c_int {
    call(0, || {
        // SAFETY: the caller's promise.
        let ctx = unsafe { context(ctx)? };
        ctx.client.set_timeout(match msecs {
            0 => ctx.usual,
            msecs => Duration::from_millis(msecs.into()),
        });
        Ok(1)
    })
}

/// Sets for how long the cache is left alone after a call that it did not answer in time; 0 for not at
/// all.
///
/// # Safety
/// `ctx` is null or a context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn DC_CTX_set_pause(ctx: *mut DC_CTX, msecs: c_uint) -> c_int {
    call(0, || {
        // SAFETY: the caller's promise.
        let ctx = unsafe { context(ctx)? };
        ctx.client.set_pause(Duration::from_millis(msecs.into()));
        Ok(1)
    })
}

/// Why this thread's last call did not do what was asked: one line that stays until its next call.
#[unsafe(no_mangle)]
pub extern "C" fn DC_CTX_errstr() -> *const c_char {
    last_words()
}

/// # Safety
/// `ctx` is null, or a context that lives for as long as the result is used.
unsafe fn context<'a>(ctx: *const DC_CTX) -> Result<&'a DC_CTX, Reason> {
    // SAFETY: the caller's promise.
    unsafe { ctx.as_ref() }.ok_or(Reason::Said("the context is NULL"))
}

/// # Safety
/// `id` is null, or has `len` bytes that stay as they are for as long as the result is used.
unsafe fn name<'a>(id: *const c_uchar, len: c_uint) -> Result<Id<'a>, Reason> {
    if id.is_null() {
        return Err(Reason::Said("the id is NULL"));
    }
    let len =
        usize::try_from(len).ok().filter(|len| (1..=distcache_core::id::ID_MAX).contains(len));
    let len = len.ok_or(Reason::Said("an id has 1 to 64 bytes"))?;
    // SAFETY: the caller's promise.
    Id::new(unsafe { std::slice::from_raw_parts(id, len) }).ok_or(Reason::NotThere)
}

/// # Safety
/// `session` is null, or has `len` bytes that stay as they are for as long as the result is used.
unsafe fn content<'a>(session: *const c_uchar, len: c_uint) -> Result<&'a [u8], Reason> {
    if session.is_null() {
        return Err(Reason::Said("the session is NULL"));
    }
    let len = usize::try_from(len).ok().filter(|len| *len <= PAYLOAD_MAX);
    let len = len.ok_or(Reason::Said("the session is too long for a message"))?;
    if len == 0 {
        return Err(Reason::Said("the session is empty"));
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(session, len) })
}

fn ttl(msecs: c_ulong) -> u32 {
    u32::try_from(msecs).unwrap_or(TTL_MAX).min(TTL_MAX)
}

/// Where a fetched session goes. Pointers and not a slice: what is there was never written perhaps.
struct Out {
    result: *mut c_uchar,
    size: usize,
    used: *mut c_uint,
}

impl Out {
    /// Says that nothing was fetched yet.
    ///
    /// # Safety
    /// As with [`DC_CTX_get_session`], until the last use of the result.
    unsafe fn new(result: *mut c_uchar, size: c_uint, used: *mut c_uint) -> Result<Self, Reason> {
        if used.is_null() {
            return Err(Reason::Said("there is no place for the length: result_used is NULL"));
        }
        // SAFETY: the caller's promise.
        unsafe { used.write_unaligned(0) };
        if result.is_null() && size != 0 {
            return Err(Reason::Said("result is NULL, and result_size is not 0"));
        }
        Ok(Self { result, size: usize::try_from(size).unwrap_or(0), used })
    }

    /// Copies as much as fits, and tells the whole length.
    fn fill(self, session: &[u8]) {
        let fits = session.len().min(self.size);
        if fits > 0 {
            // SAFETY: as `new` was promised: there is room for `size` bytes, which are not ours.
            unsafe { ptr::copy_nonoverlapping(session.as_ptr(), self.result, fits) };
        }
        let len = c_uint::try_from(session.len()).unwrap_or(c_uint::MAX);
        // SAFETY: as `new` was promised.
        unsafe { self.used.write_unaligned(len) };
    }
}

#[cfg(test)]
mod tests;
