//! `libdistcache`: the blocking client with a C interface. `include/distcache/dc_client.h` documents the
//! functions.
//!
//! The library runs inside other servers, so a call may fail but does nothing worse: it never ends the
//! process, prints nothing, and raises no signal. The lints below keep this crate from panicking. If a
//! crate below panics all the same, `call` turns that into a failure.
//!
//! `unsafe` appears where C pointers do. It relies on what the header asks of callers: a pointer has as
//! many bytes behind it as the length beside it says, and these do not change during the call.
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
mod seal;
mod target;
mod thread;

use std::ffi::{c_char, c_int, c_uchar, c_uint, c_ulong};
use std::ptr;
use std::time::Duration;

use distcache_core::id::Id;
use distcache_core::wire::PAYLOAD_MAX;
use distcache_posix::{Client, TTL_MAX};

use call::{call, caught, last_reason};
use reason::Reason;
use recent::Number;

/// A context of the C interface.
pub struct DC_CTX {
    client: Client,
    /// The timeout that `DC_CTX_set_timeout(ctx, 0)` restores.
    default_timeout: Duration,
    /// Identifies this context in each thread's list of recent fetches.
    number: Number,
    /// Whether threads keep what they fetch, for `DC_CTX_reget_session`.
    keeps: bool,
}

impl DC_CTX {
    /// Returns the client for an operation. What this thread fetched before is then no longer its last
    /// operation, so it is forgotten.
    fn begin(&self) -> &Client {
        recent::forget(self.number);
        &self.client
    }

    /// Keeps what this thread has fetched, if this context does so.
    fn remember(&self, id: Id<'_>, session: &[u8]) {
        if self.keeps {
            recent::remember(self.number, id, session);
        }
    }
}

impl Drop for DC_CTX {
    fn drop(&mut self) {
        recent::retire(self.number);
    }
}

/// `DC_CTX_FLAG_NO_REGET`: threads do not keep what they fetch.
const NO_REGET: c_uint = 16;

/// Threads may share a context.
const _: () = {
    const fn assert_thread_safe<T: Send + Sync>() {}
    assert_thread_safe::<DC_CTX>();
};

/// Creates a context for the server or proxy at `target`, or returns null.
///
/// # Safety
/// `target` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn DC_CTX_new(target: *const c_char, flags: c_uint) -> *mut DC_CTX {
    call(ptr::null_mut(), || {
        // SAFETY: the caller's promise.
        let target = unsafe { target::text(target)? };
        let (client, default_timeout) = target::client(target, flags)?;
        let keeps = flags & NO_REGET == 0;
        let number = Number::next();
        let ctx = reserve::try_box(DC_CTX { client, default_timeout, number, keeps });
        // Memory from the reserve must not outlive the call, and a context does.
        match ctx.filter(|_| !reserve::take_used()) {
            Some(ctx) => Ok(Box::into_raw(ctx)),
            None => Err(Reason::Text("no memory")),
        }
    })
}

/// Closes the connections of a context and frees it. Does nothing if it is null.
///
/// # Safety
/// `ctx` is null, or came from [`DC_CTX_new`] and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn DC_CTX_free(ctx: *mut DC_CTX) {
    // Not `call`, which would replace the reason of the call before.
    caught(|| {
        if !ctx.is_null() {
            // SAFETY: the caller's promise.
            drop(unsafe { Box::from_raw(ctx) });
        }
    });
}

/// Stores a session unless the id already has one.
///
/// # Safety
/// `ctx` is null or a context; `id` and `session` are null or have as many bytes as their lengths say.
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
        ctx.begin().add(id, session, ttl(timeout_msecs))?;
        Ok(1)
    })
}

/// Stores a session, and replaces the one that the id has.
///
/// # Safety
/// As for [`DC_CTX_add_session`].
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
        ctx.begin().put(id, session, ttl(timeout_msecs))?;
        Ok(1)
    })
}

/// Removes a session.
///
/// # Safety
/// `ctx` is null or a context; `id` is null or has `id_len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn DC_CTX_remove_session(
    ctx: *mut DC_CTX,
    id: *const c_uchar,
    id_len: c_uint,
) -> c_int {
    call(0, || {
        // SAFETY: the caller's promise.
        let (ctx, id) = unsafe { (context(ctx)?, name(id, id_len)?) };
        match ctx.begin().remove(id)? {
            true => Ok(1),
            false => Err(Reason::NoSession),
        }
    })
}

/// Returns whether there is a session: 1 or 0, or -1 on failure.
///
/// # Safety
/// As for [`DC_CTX_remove_session`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn DC_CTX_has_session(
    ctx: *mut DC_CTX,
    id: *const c_uchar,
    id_len: c_uint,
) -> c_int {
    let found = call(-1, || {
        // SAFETY: the caller's promise.
        let (ctx, id) = unsafe { (context(ctx)?, name(id, id_len)?) };
        Ok(c_int::from(ctx.begin().has(id)?))
    });
    if found == 0 {
        call::set_reason(&Reason::NoSession);
    }
    found
}

/// Fetches a session.
///
/// # Safety
/// `ctx` is null or a context; `id` is null or has `id_len` bytes; `result` is null or has
/// room for `result_size` bytes, `used` is null or has room for a number, and neither lies in the other.
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
        let found = ctx.begin().get_with(id, |session| {
            ctx.remember(id, session);
            out.fill(session);
        })?;
        found.map(|()| 1).ok_or(Reason::NoSession)
    })
}

/// Copies what this thread's last operation on this context fetched, if it was this id.
///
/// # Safety
/// As for [`DC_CTX_get_session`].
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
            .ok_or(Reason::Text("this thread's last call on this context did not fetch it"))
    })
}

/// Fetches a session and removes it. If several clients do so, one of them gets it.
///
/// # Safety
/// As for [`DC_CTX_get_session`].
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
        let client = ctx.begin();
        // The cache no longer has the session, so it must fit either here or in `result`.
        if ctx.keeps && !recent::reserve(ctx.number) && out.size < PAYLOAD_MAX {
            return Err(Reason::Text("no memory"));
        }
        let found = client.take_with(id, |session| {
            ctx.remember(id, session);
            out.fill(session);
        })?;
        found.map(|()| 1).ok_or(Reason::NoSession)
    })
}

/// Sets how long each operation may take, in milliseconds; 0 restores the default.
///
/// # Safety
/// `ctx` is null or a context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn DC_CTX_set_timeout(ctx: *mut DC_CTX, msecs: c_uint) -> c_int {
    call(0, || {
        // SAFETY: the caller's promise.
        let ctx = unsafe { context(ctx)? };
        ctx.client.set_timeout(match msecs {
            0 => ctx.default_timeout,
            msecs => Duration::from_millis(msecs.into()),
        });
        Ok(1)
    })
}

/// Sets for how long calls fail at once after a timeout, in milliseconds; 0 for no pause.
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

/// Returns why this thread's last call failed: one line, valid until its next call.
#[unsafe(no_mangle)]
pub extern "C" fn DC_CTX_errstr() -> *const c_char {
    last_reason()
}

/// # Safety
/// `ctx` is null, or a context that lives for as long as the result is used.
unsafe fn context<'a>(ctx: *const DC_CTX) -> Result<&'a DC_CTX, Reason> {
    // SAFETY: the caller's promise.
    unsafe { ctx.as_ref() }.ok_or(Reason::Text("the context is NULL"))
}

/// # Safety
/// `id` is null, or has `len` bytes that stay as they are for as long as the result is used.
unsafe fn name<'a>(id: *const c_uchar, len: c_uint) -> Result<Id<'a>, Reason> {
    if id.is_null() {
        return Err(Reason::Text("the id is NULL"));
    }
    let len =
        usize::try_from(len).ok().filter(|len| (1..=distcache_core::id::ID_MAX).contains(len));
    let len = len.ok_or(Reason::Text("an id has 1 to 64 bytes"))?;
    // SAFETY: the caller's promise.
    Id::new(unsafe { std::slice::from_raw_parts(id, len) }).ok_or(Reason::NoSession)
}

/// # Safety
/// `session` is null, or has `len` bytes that stay as they are for as long as the result is used.
unsafe fn content<'a>(session: *const c_uchar, len: c_uint) -> Result<&'a [u8], Reason> {
    if session.is_null() {
        return Err(Reason::Text("the session is NULL"));
    }
    let len = usize::try_from(len).ok().filter(|len| *len <= PAYLOAD_MAX);
    let len = len.ok_or(Reason::Text("the session is too long for a message"))?;
    if len == 0 {
        return Err(Reason::Text("the session is empty"));
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(session, len) })
}

fn ttl(msecs: c_ulong) -> Duration {
    u32::try_from(msecs).map_or(TTL_MAX, |msecs| Duration::from_millis(msecs.into())).min(TTL_MAX)
}

/// Where a fetched session is copied to. Pointers, not a slice: the memory may be uninitialized.
struct Out {
    result: *mut c_uchar,
    size: usize,
    used: *mut c_uint,
}

impl Out {
    /// Checks the pointers, and sets the length to 0.
    ///
    /// # Safety
    /// As for [`DC_CTX_get_session`], until the last use of the result.
    unsafe fn new(result: *mut c_uchar, size: c_uint, used: *mut c_uint) -> Result<Self, Reason> {
        if used.is_null() {
            return Err(Reason::Text("result_used is NULL"));
        }
        // SAFETY: the caller's promise.
        unsafe { used.write_unaligned(0) };
        if result.is_null() && size != 0 {
            return Err(Reason::Text("result is NULL and result_size is not 0"));
        }
        Ok(Self { result, size: usize::try_from(size).unwrap_or(0), used })
    }

    /// Copies as much as fits, and sets the whole length.
    fn fill(self, session: &[u8]) {
        let fits = session.len().min(self.size);
        if fits > 0 {
            // SAFETY: the promise made to `new`: there is room for `size` bytes, outside this library.
            unsafe { ptr::copy_nonoverlapping(session.as_ptr(), self.result, fits) };
        }
        let len = c_uint::try_from(session.len()).unwrap_or(c_uint::MAX);
        // SAFETY: the promise made to `new`.
        unsafe { self.used.write_unaligned(len) };
    }
}

#[cfg(test)]
mod tests;
