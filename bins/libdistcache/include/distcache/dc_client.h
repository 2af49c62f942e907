/*
 * libdistcache: a TLS session cache that servers on many machines share.
 *
 * A DC_CTX is a client of one cache, which is a dc_client on this machine or a dc_server.
 *
 * Calls. A call never ends the process, prints anything or raises a signal. Any failure, including a
 * NULL pointer or a length out of bounds, is reported by the return value and by DC_CTX_errstr.
 *
 * Time. Each operation ends within the timeout of its context: 250 ms for UNIX sockets and FD, 1 s for
 * TCP. The environment variable DISTCACHE_TIMEOUT_MS (milliseconds; ignored in setuid programs) changes
 * the default, and DC_CTX_set_timeout changes it for one context. DC_CTX_new may take longer, since it
 * looks up host names. After a timeout the context pauses: for 1 s, calls fail at once without asking
 * the cache. After the pause one call tries the cache again. See DC_CTX_set_pause.
 *
 * Threads. Any number of threads may use one context at the same time. DC_CTX_free and
 * DC_CTX_set_sealkeys must not run while another thread uses the context. A thread that is cancelled during a call ends after that call.
 *
 * Forks. Parent and child may both keep using a context: each process opens its own connections. A
 * context with an FD target has only the one connection, so only one process may use it.
 *
 * Buffers. `id_data` points to `id_len` bytes, from 1 to DC_MAX_ID_LEN. `sess_data` points to `sess_len`
 * bytes, from 1 to DC_MAX_TOTAL_DATA - id_len. They must not change during the call, and the library
 * keeps no pointer to them.
 *
 * Secrets. Sessions are wiped from the library's memory when the call ends, except for the copy that
 * DC_CTX_reget_session needs: see DC_CTX_FLAG_NO_REGET. The caller wipes its own buffers.
 *
 * Seal. With keys, sessions are encrypted before they are sent and opened when they come back: the cache and
 * the network see ids, sizes and lifetimes, and no session. See DC_CTX_set_sealkeys, and "Sealed sessions"
 * in docs/security.md. The environment variable DISTCACHE_SEALKEYS names a key file for contexts created
 * from then on (with DISTCACHE_SEALKEYS_MIXED=1 as with DC_SEALKEYS_MIXED). DC_CTX_new fails if it cannot
 * use the file. Both are ignored in setuid programs.
 */
#ifndef DISTCACHE_DC_CLIENT_H
#define DISTCACHE_DC_CLIENT_H

/* The version of this header and of the library's binary interface, for use in #if. */
#define DISTCACHE_CLIENT_API 0x0001
#define DISTCACHE_CLIENT_BINARY 0x0001

#ifdef __cplusplus
extern "C" {
#endif

typedef struct st_DC_CTX DC_CTX;

/* Keeps connections open between calls. Without this flag each call opens and closes a connection. */
#define DC_CTX_FLAG_PERSISTENT 0x0001U
/* Connects anew in a child process after a fork. This library always does: the flag has no effect. */
#define DC_CTX_FLAG_PERSISTENT_PIDCHECK 0x0002U
/* Sends a request once more, on a new connection, if a kept connection breaks during it. */
#define DC_CTX_FLAG_PERSISTENT_RETRY 0x0004U
/* With PERSISTENT: connects at the first call that needs a connection, not in DC_CTX_new. */
#define DC_CTX_FLAG_PERSISTENT_LATE 0x0008U
/*
 * Keeps no copy of a fetched session, so that none is in the memory of the library after the call.
 * DC_CTX_reget_session then always returns 0, and DC_CTX_take_session loses what `result` has no room
 * for. Without this flag, each thread keeps the session that it fetched last, until its next operation
 * on the context, the end of the thread, or DC_CTX_free in that thread. Not in the original libdistcache.
 */
#define DC_CTX_FLAG_NO_REGET 0x0010U

/* The longest id, in bytes. */
#define DC_MAX_ID_LEN 64
/* The largest sum of id length and session length, in bytes. */
#define DC_MAX_TOTAL_DATA 32760
/* The longest lifetime of a session, in milliseconds: 7 days. Longer lifetimes are cut to this. */
#define DC_MAX_TIMEOUT 604800000UL

/*
 * Creates a context.
 *
 * `target` is the address of the cache: UNIX:/path, IP:host:port, IP:[::1]:port or FD:n. The host is
 * looked up here and never again. FD takes the number of a connected socket, which serves as the only
 * connection. `flags` is 0 or a combination of DC_CTX_FLAG_*; unknown bits are ignored. The function
 * connects only with PERSISTENT and without PERSISTENT_LATE.
 *
 * Returns NULL if the target is not a valid address, the host is not found, the connection fails, or
 * there is no memory.
 */
DC_CTX *DC_CTX_new(const char *target, unsigned int flags);

/* The beginning of DC_CTX_errstr() after DC_CTX_new has not found the host of its target. */
#define DC_CTX_NO_HOST "cannot find host"

/* Closes the connections of a context and frees it. NULL is allowed. */
void DC_CTX_free(DC_CTX *ctx);

/*
 * Stores a session for `timeout_msecs` milliseconds, unless the id already has one.
 *
 * A lifetime of 0 is allowed: the session has expired as soon as it is stored.
 *
 * Returns 1 if the session was stored, otherwise 0; 0 too if the id already has a session, which
 * then stays.
 */
int DC_CTX_add_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len,
                       const unsigned char *sess_data, unsigned int sess_len,
                       unsigned long timeout_msecs);

/* Removes a session. Returns 1 if it was there and was removed, otherwise 0. */
int DC_CTX_remove_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len);

/*
 * Fetches a session.
 *
 * `result` has room for `result_size` bytes. `*result_used` is set to the length of the session; if that
 * is more than `result_size`, only the first `result_size` bytes were copied. `result` may be NULL if
 * `result_size` is 0: then only the length is returned, and DC_CTX_reget_session copies the session.
 *
 * Returns 1 if the session was found. Otherwise returns 0 and sets `*result_used` to 0. Sessions of 1 to
 * 4 bytes can be stored but not fetched, since the protocol uses answers of these lengths for statuses.
 */
int DC_CTX_get_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len,
                       unsigned char *result, unsigned int result_size, unsigned int *result_used);

/*
 * Copies the session of this thread's last get or take again, without asking the cache.
 *
 * Works only if this thread's last operation on this context fetched this id; calls of other threads
 * make no difference. A thread keeps the last session of 8 contexts at most. The arguments are those of
 * DC_CTX_get_session.
 *
 * Returns 1 if the session was copied. Otherwise returns 0 and sets `*result_used` to 0.
 */
int DC_CTX_reget_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len,
                         unsigned char *result, unsigned int result_size,
                         unsigned int *result_used);

/* Returns 1 if the cache has the session, 0 if it has not, and -1 on failure. */
int DC_CTX_has_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len);

/*
 * The functions below are not in the original libdistcache. Programs that must also build with that one
 * test for this macro. 0x0002 added DC_CTX_set_pause, 0x0003 DC_CTX_set_sealkeys and DC_CTX_unopened.
 */
#define DISTCACHE_CLIENT_MORE 0x0003

/*
 * Stores a session like DC_CTX_add_session, but replaces the session that the id has.
 * Returns 1 if the session was stored, otherwise 0.
 */
int DC_CTX_put_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len,
                       const unsigned char *sess_data, unsigned int sess_len,
                       unsigned long timeout_msecs);

/*
 * Fetches a session and removes it, in one step: if several clients take the same session, on any
 * machines, only one of them gets it. The arguments are those of DC_CTX_get_session.
 *
 * Returns 1 if the session was found. Otherwise returns 0 and sets `*result_used` to 0. After a failure
 * other than DC_CTX_NO_SESSION the session may be lost.
 */
int DC_CTX_take_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len,
                        unsigned char *result, unsigned int result_size,
                        unsigned int *result_used);

/*
 * Returns why this thread's last call failed: one line of text for people, never NULL.
 *
 * The text belongs to the library and is valid until the thread's next call. DC_CTX_free does not
 * change it. It is exactly DC_CTX_NO_SESSION if the cache answered that there is no such session, which
 * tells a miss from a failure. It contains DC_CTX_TIMED_OUT if the cache did not answer in time, or was
 * not asked because of a pause.
 */
const char *DC_CTX_errstr(void);
#define DC_CTX_NO_SESSION "no such session"
#define DC_CTX_TIMED_OUT "no answer within the deadline"

/*
 * Sets how long each operation may take, in milliseconds, for calls that begin from now on. At most one
 * day: longer times are cut. 0 restores the value that the context had when it was created.
 * Returns 1, or 0 if `ctx` is NULL.
 */
int DC_CTX_set_timeout(DC_CTX *ctx, unsigned int msecs);

/*
 * Sets how long the context pauses after a timeout, in milliseconds: 1000 in a new context, at most one
 * day, 0 for no pause. With a pause, a cache that hangs costs one timeout in each pause instead of one
 * for each call. A pause that is under way ends.
 * Returns 1, or 0 if `ctx` is NULL.
 */
int DC_CTX_set_pause(DC_CTX *ctx, unsigned int msecs);

/* Finds sessions that are not sealed, too: for the time in which machines begin to seal one by one. */
#define DC_SEALKEYS_MIXED 0x0001U

/*
 * Seals the sessions of this context with the keys in `file` from now on. `file` may be NULL: then they
 * are stored as they are. `flags` is 0 or DC_SEALKEYS_MIXED. No other thread may use the context meanwhile.
 *
 * The file has one key a line, as `dc_client -newkey` prints it, the newest first, at most 8. Its mode must be
 * 600 or less, and its owner root or the user of this process. Calls look once in ten seconds whether it has
 * changed. A bad file then leaves the old keys in use. If the process cannot read it any more after it has
 * changed its user, the keys stay as they were read first.
 *
 * A sealed session is 48 bytes longer, so sess_len may be DC_MAX_TOTAL_DATA - id_len - 48 at most. A session
 * that does not open counts as not found: one that was changed, stored under another id or past its
 * lifetime, sealed with an unknown key, or not sealed.
 *
 * Returns 1, or 0 if the file cannot be used or `ctx` is NULL. If the file cannot be used, the context keeps
 * the keys that it had; without memory it may have none.
 */
int DC_CTX_set_sealkeys(DC_CTX *ctx, const char *file, unsigned int flags);

/* Returns how many sessions that this context fetched did not open; 0 too if `ctx` is NULL. */
unsigned long DC_CTX_unopened(const DC_CTX *ctx);

#ifdef __cplusplus
}
#endif

#endif
