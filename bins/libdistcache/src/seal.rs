//! The keys of a context: from the environment, or from `DC_CTX_set_sealkeys`.

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_ulong};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use distcache_posix::client::Builder;

use crate::call::call;
use crate::reason::Reason;
use crate::reserve::{self, BLOCK_LEN};
use crate::target::environment;
use crate::{DC_CTX, context};

/// The variable with the path of a key file. New contexts seal with its keys.
const KEYS_VARIABLE: &CStr = c"DISTCACHE_SEALKEYS";

/// The variable that is 1 if unsealed sessions are to be found, too.
const MIXED_VARIABLE: &CStr = c"DISTCACHE_SEALKEYS_MIXED";

/// `DC_SEALKEYS_MIXED`: returns sessions that were found unsealed.
const MIXED: c_uint = 1;

/// The most bytes of a path. So it fits in a reserve block, and so does a message with it.
const PATH_MAX: usize = 400;

const _: () = assert!(PATH_MAX + 100 <= BLOCK_LEN);

/// Adds the keys that the environment names. An empty name counts as none.
pub(crate) fn from_environment(builder: Builder) -> Result<Builder, Reason> {
    let Some(file) = environment(KEYS_VARIABLE).filter(|file| !file.is_empty()) else {
        return Ok(builder);
    };
    let builder = builder.seal_keys(path(file)?);
    Ok(if environment(MIXED_VARIABLE) == Some(c"1") { builder.seal_mixed() } else { builder })
}

fn path(text: &CStr) -> Result<&Path, Reason> {
    if text.count_bytes() > PATH_MAX {
        return Err(Reason::Text("the path of the key file has more than 400 bytes"));
    }
    Ok(Path::new(OsStr::from_bytes(text.to_bytes())))
}

/// Seals the sessions of a context with the keys in a file; null for no seal.
///
/// # Safety
/// `ctx` is null, or a context that no other thread uses during the call. `file` is null or a C string.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn DC_CTX_set_sealkeys(
    ctx: *mut DC_CTX,
    file: *const c_char,
    flags: c_uint,
) -> c_int {
    call(0, || {
        // SAFETY: the caller's promise.
        let ctx = unsafe { ctx.as_mut() }.ok_or(Reason::Text("the context is NULL"))?;
        // SAFETY: the caller's promise.
        let file = (!file.is_null()).then(|| unsafe { CStr::from_ptr(file) });
        let file = file.map(path).transpose()?;
        ctx.client.set_seal_keys(file, flags & MIXED != 0)?;
        // Memory from the reserve must not outlive the call, and the path would.
        if reserve::take_used() {
            ctx.client.set_seal_keys(None, false)?;
            return Err(Reason::Text("no memory"));
        }
        Ok(1)
    })
}

/// Returns how many sessions of a context did not open.
///
/// # Safety
/// `ctx` is null or a context.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn DC_CTX_unopened(ctx: *const DC_CTX) -> c_ulong {
    call(0, || {
        // SAFETY: the caller's promise.
        let ctx = unsafe { context(ctx)? };
        Ok(c_ulong::try_from(ctx.client.unopened().total()).unwrap_or(c_ulong::MAX))
    })
}
