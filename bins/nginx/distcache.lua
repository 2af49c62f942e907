-- Lets nginx keep its TLS 1.2 sessions in distcache. docs/tls-servers.md, "nginx", has the configuration around it.
--
-- A call waits for its answer and the worker waits with it: use a dc_client on a UNIX socket of this machine, and
-- keep `timeout` low. It is what a cache that stands still costs a handshake. The library then leaves that
-- cache alone for a second, and the handshakes of this worker go on without it at once.

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
]]
local library = ffi.load "libdistcache.so.1"

-- May be changed in init_by_lua_block. Times are in milliseconds.
local M = { target = "UNIX:/run/distcache/scache", timeout = 50, lifetime = 300 * 1000, log_every = 10 * 1000 }

-- PERSISTENT, PIDCHECK, RETRY and LATE.
local FLAGS = 1 + 2 + 4 + 8
-- What set_serialized_session has room for. It does not look: more would run over its stack.
local SESSION_MAX = 4096
local NO_SESSION = "no such session"

local buffer, used = ffi.new("unsigned char[?]", SESSION_MAX), ffi.new "unsigned int[1]"
local context
local retry_at, log_at, silent = 0, 0, 0

-- Clocks of nginx stand still while a worker is busy, which is exact enough here.
local function now() return ngx.now() * 1000 end

-- Tells what went wrong, seldom: a cache that is away fails every handshake.
local function log(why)
    silent = silent + 1
    if now() < log_at then return end
    ngx.log(ngx.ERR, "distcache: ", M.target, ": ", why, "; ", silent, " sessions not shared since the last such line")
    log_at, silent = now() + M.log_every, 0
end

-- The worker's own context, made when it is first needed. A target that can't be used is not tried at each handshake.
local function connection()
    if not context and now() >= retry_at then
        local made = library.DC_CTX_new(M.target, FLAGS)
        if made == nil then
            retry_at = now() + M.log_every
            return nil, ffi.string(library.DC_CTX_errstr())
        end
        context = ffi.gc(made, library.DC_CTX_free)
        library.DC_CTX_set_timeout(context, M.timeout)
    end
    return context, "could not be used a moment ago"
end

-- The id as bytes: nginx gives digits, and other servers know nothing of those.
local function id()
    local digits, why = session.get_session_id()
    return digits and digits:gsub("..", function(pair) return string.char(tonumber(pair, 16)) end), why
end

-- For ssl_session_store_by_lua_block: stores the session of this handshake for `lifetime` milliseconds.
function M.store(lifetime)
    local ctx, why = connection()
    local key, data
    if ctx then key, why = id() end
    if key then data, why = session.get_serialized_session() end
    if not data then return log(why) end
    if library.DC_CTX_put_session(ctx, key, #key, data, #data, lifetime or M.lifetime) == 0 then
        log(ffi.string(library.DC_CTX_errstr()))
    end
end

-- For ssl_session_fetch_by_lua_block: hands nginx the session that the client wants to resume, where there is one.
function M.fetch()
    local ctx, why = connection()
    local key
    if ctx then key, why = id() end
    if not key then return log(why) end
    if library.DC_CTX_get_session(ctx, key, #key, buffer, SESSION_MAX, used) == 0 then
        why = ffi.string(library.DC_CTX_errstr())
        return why ~= NO_SESSION and log(why) or nil
    end
    if used[0] > SESSION_MAX then return log("a session of " .. used[0] .. " bytes is too long for nginx") end
    local ok
    ok, why = session.set_serialized_session(ffi.string(buffer, used[0]))
    if not ok then log(why) end
end

return M
