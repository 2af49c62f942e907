-- Keeps the TLS 1.2 sessions of nginx in distcache. The configuration for it is in docs/tls-servers.md, "nginx".
--
-- Calls block: the worker does nothing else until the answer arrives. So use a dc_client on a UNIX socket of this
-- machine, and keep `timeout` low, which is how long a cache that hangs delays a handshake. After a timeout the
-- library does not ask the cache for a second, and the handshakes of this worker go on without it.

local ffi = require "ffi"
local session = require "ngx.ssl.session"

ffi.cdef [[
typedef struct st_DC_CTX DC_CTX;
DC_CTX *DC_CTX_new(const char *target, unsigned int flags);
void DC_CTX_free(DC_CTX *ctx);
int DC_CTX_put_session(DC_CTX *ctx, const unsigned char *id, unsigned int id_len,
                       const unsigned char *session, unsigned int session_len, unsigned long timeout_msecs);
int DC_CTX_get_session(DC_CTX *ctx, const unsigned char *id, unsigned int id_len,
                       unsigned char *result, unsigned int result_size, unsigned int *result_used);
const char *DC_CTX_errstr(void);
int DC_CTX_set_timeout(DC_CTX *ctx, unsigned int msecs);
int DC_CTX_set_sealkeys(DC_CTX *ctx, const char *file, unsigned int flags);
unsigned long DC_CTX_unopened(const DC_CTX *ctx);
]]
local library = ffi.load "libdistcache.so.1"

-- Settings, which init_by_lua_block may change. Times are in milliseconds. `sealkeys` is the path of a key file, which
-- the user of the workers must own: sessions are then encrypted before they leave the worker. Unsealed sessions that
-- are found count as none unless `sealkeys_mixed` is true.
local M = {
    target = "UNIX:/run/distcache/scache", timeout = 50, lifetime = 300 * 1000, log_every = 10 * 1000,
    sealkeys = nil, sealkeys_mixed = false,
}

-- DC_CTX_FLAG_PERSISTENT, PERSISTENT_PIDCHECK, PERSISTENT_RETRY, PERSISTENT_LATE and NO_REGET.
local FLAGS = 1 + 2 + 4 + 8 + 16
-- The buffer of set_serialized_session, in bytes. It does not check: a longer session would overrun its stack.
local SESSION_MAX = 4096
local NO_SESSION = "no such session"

local buffer, used = ffi.new("unsigned char[?]", SESSION_MAX), ffi.new "unsigned int[1]"
local context
local unopened = 0
local retry_at, log_at, not_shared = 0, 0, 0

-- The time in milliseconds. nginx updates it once in each turn of its event loop, which is exact enough here.
local function now() return ngx.now() * 1000 end

-- Logs a failure, once in `log_every`: while the cache is unreachable, every handshake fails.
local function log(why)
    not_shared = not_shared + 1
    if now() < log_at then return end
    ngx.log(ngx.ERR, "distcache: ", M.target, ": ", why, "; ", not_shared, " sessions not shared since the last such line")
    log_at, not_shared = now() + M.log_every, 0
end

-- Gives a context its keys. Returns true, or nil and why: without its keys no session may leave the worker.
local function seal(ctx)
    if not M.sealkeys then return true end
    local known, set = pcall(function() return library.DC_CTX_set_sealkeys end)
    if not known then return nil, "this libdistcache cannot seal sessions: install a newer one" end
    if set(ctx, M.sealkeys, M.sealkeys_mixed and 1 or 0) == 1 then return true end
    return nil, ffi.string(library.DC_CTX_errstr())
end

-- Returns the context of this worker, created at the first use, or nil and why. Retries after `log_every` at most.
local function current_context()
    if not context and now() >= retry_at then
        local new = library.DC_CTX_new(M.target, FLAGS)
        if new == nil then
            retry_at = now() + M.log_every
            return nil, ffi.string(library.DC_CTX_errstr())
        end
        new = ffi.gc(new, library.DC_CTX_free)
        local sealed, why = seal(new)
        if not sealed then
            retry_at = now() + M.log_every
            return nil, why
        end
        context = new
        library.DC_CTX_set_timeout(context, M.timeout)
    end
    return context, "could not be used a moment ago"
end

-- Returns the session id as bytes, as other servers store it. nginx gives it as hexadecimal digits.
local function id()
    local digits, why = session.get_session_id()
    return digits and digits:gsub("..", function(pair) return string.char(tonumber(pair, 16)) end), why
end

-- For ssl_session_store_by_lua_block: stores the session of this handshake for `lifetime` milliseconds.
-- Errors are logged.
function M.store(lifetime)
    local ctx, why = current_context()
    local key, data
    if ctx then key, why = id() end
    if key then data, why = session.get_serialized_session() end
    if not data then return log(why) end
    if library.DC_CTX_put_session(ctx, key, #key, data, #data, lifetime or M.lifetime) == 0 then
        log(ffi.string(library.DC_CTX_errstr()))
    end
end

-- For ssl_session_fetch_by_lua_block: fetches the session that the client wants to resume, and gives it to nginx.
-- Without one the handshake is a full one. Errors are logged.
function M.fetch()
    local ctx, why = current_context()
    local key
    if ctx then key, why = id() end
    if not key then return log(why) end
    if library.DC_CTX_get_session(ctx, key, #key, buffer, SESSION_MAX, used) == 0 then
        why = ffi.string(library.DC_CTX_errstr())
        local count = M.sealkeys and tonumber(library.DC_CTX_unopened(ctx)) or 0
        if count > unopened then
            unopened = count
            return log("found a session that did not open, " .. count .. " so far")
        end
        return why ~= NO_SESSION and log(why) or nil
    end
    local bytes = used[0] <= SESSION_MAX and ffi.string(buffer, used[0])
    -- The string itself cannot be wiped: it stays until Lua uses its memory for something else.
    ffi.fill(buffer, SESSION_MAX)
    if not bytes then return log("a session of " .. used[0] .. " bytes is too long for nginx") end
    local ok
    ok, why = session.set_serialized_session(bytes)
    if not ok then log(why) end
end

return M
