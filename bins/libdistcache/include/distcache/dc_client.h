/*
 * libdistcache: a cache of TLS sessions that servers on many machines share.
 *
 * A context stands for one cache: a dc_client on this machine, or a dc_server. Threads may use one
 * context at the same time, and it may be used on both sides of a fork: each process has connections
 * of its own. Only DC_CTX_free wants to be alone with it.
 *
 * No call ends the process, prints, or raises a signal, and none takes longer than the deadline of
 * its context: 250 ms for UNIX sockets and 1 s for TCP, unless the environment variable
 * DISTCACHE_TIMEOUT_MS or DC_CTX_set_timeout says otherwise; setuid programs ignore the variable.
 * After a call that the cache did not answer in time, the context leaves it alone for a second: calls
 * fail at once, and then one asks again (DC_CTX_set_pause). A NULL where something is needed and
 * a length out of bounds are failures like any other. A thread that is cancelled during a call is
 * cancelled after it.
 */
#ifndef DISTCACHE_DC_CLIENT_H
#define DISTCACHE_DC_CLIENT_H

/* What this header offers, and what the library behind it does: to be compared by #if. */
#define DISTCACHE_CLIENT_API 0x0001
#define DISTCACHE_CLIENT_BINARY 0x0001

#ifdef __cplusplus
extern "C" {
#endif

typedef struct st_DC_CTX DC_CTX;

/* Keep connections from one call to the next; without it each call makes one and closes it. */
#define DC_CTX_FLAG_PERSISTENT 0x0001U
/* A child after a fork connects anew. Here it always does: the flag is for other libraries. */
#define DC_CTX_FLAG_PERSISTENT_PIDCHECK 0x0002U
/* Where a kept connection breaks under a request, send that once more on a new one. */
#define DC_CTX_FLAG_PERSISTENT_RETRY 0x0004U
/* With PERSISTENT: connect at the first call that needs it, and not in DC_CTX_new. */
#define DC_CTX_FLAG_PERSISTENT_LATE 0x0008U

/* An id has 1 to so many bytes. */
#define DC_MAX_ID_LEN 64
/* Id and session may have so many bytes together. */
#define DC_MAX_TOTAL_DATA 32760
/* A session may live so many milliseconds, seven days: more is taken for this. */
#define DC_MAX_TIMEOUT 604800000UL

/*
 * Makes a context for `target`: UNIX:/path, IP:host:port, IP:[::1]:port, FD:n; names are looked up
 * here and not again, which may take as long as the system's resolver does. Connects only with
 * PERSISTENT and without PERSISTENT_LATE. NULL where the target is misspelt or has no address, or the
 * connection can't be made. FD: must be a socket, and serves for one connection.
 */
DC_CTX *DC_CTX_new(const char *target, unsigned int flags);

/* What the reason begins with where the host of a target has no address. */
#define DC_CTX_NO_HOST "cannot find host"

/* Closes a context. NULL is allowed. */
void DC_CTX_free(DC_CTX *ctx);

/*
 * Stores a session for `timeout_msecs` milliseconds: 1 where it was stored, else 0. An id that is
 * taken keeps what it has, and that is a 0.
 */
int DC_CTX_add_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len,
                       const unsigned char *sess_data, unsigned int sess_len,
                       unsigned long timeout_msecs);

/* Forgets a session: 1 where it was there and is not any more, else 0. */
int DC_CTX_remove_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len);

/*
 * Fetches a session: 1 and the session's length in `*result_used`, or 0 and 0. A length above
 * `result_size` says that only the first `result_size` bytes were copied. `result` may be NULL with
 * a size of 0: then only the length is asked for, and DC_CTX_reget_session has the session.
 * Sessions of 1 to 4 bytes can be stored and not fetched: the protocol takes them for statuses.
 */
int DC_CTX_get_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len,
                       unsigned char *result, unsigned int result_size, unsigned int *result_used);

/*
 * The same once more without asking the cache, where this thread's last call on this context fetched
 * this id. What other threads do makes no difference.
 */
int DC_CTX_reget_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len,
                         unsigned char *result, unsigned int result_size,
                         unsigned int *result_used);

/* Whether there is a session: 1 or 0, and -1 where nobody could tell. */
int DC_CTX_has_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len);

/*
 * Beyond the original library. A program that is to link with that one as well asks for
 * DISTCACHE_CLIENT_MORE.
 */
#define DISTCACHE_CLIENT_MORE 0x0002

/* Stores a session like DC_CTX_add_session, but in place of what the id has. */
int DC_CTX_put_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len,
                       const unsigned char *sess_data, unsigned int sess_len,
                       unsigned long timeout_msecs);

/*
 * Fetches a session like DC_CTX_get_session and forgets it: of any number who take one session at the
 * same time, wherever they are, one gets it. A failure other than DC_CTX_NO_SESSION may have lost it.
 */
int DC_CTX_take_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len,
                        unsigned char *result, unsigned int result_size,
                        unsigned int *result_used);

/*
 * Why the last call of this thread did not say 1, or gave no context: one line for people, never NULL,
 * the library's own, there until the thread's next call. Where the cache has answered that there is
 * no such session it is DC_CTX_NO_SESSION to the letter, so that a miss can be told from a failure.
 * DC_CTX_free is no such call. Where the cache did not answer in time, or is left alone after that,
 * DC_CTX_TIMED_OUT is in it.
 */
const char *DC_CTX_errstr(void);
#define DC_CTX_NO_SESSION "no such session"
#define DC_CTX_TIMED_OUT "no answer within the deadline"

/*
 * Gives each call that begins from now on so many milliseconds, at most a day; 0 for what it was when
 * the context was made. 1, or 0 for a context that is NULL.
 */
int DC_CTX_set_timeout(DC_CTX *ctx, unsigned int msecs);

/*
 * Leaves the cache alone for so many milliseconds, at most a day, after each call that it did not
 * answer in time; 1000 in a new context, 0 for never. A cache that stands still then costs one deadline
 * in each pause, and not one for each call. Ends the pause that is under way. 1, or 0 for a context that
 * is NULL. Since DISTCACHE_CLIENT_MORE 0x0002.
 */
int DC_CTX_set_pause(DC_CTX *ctx, unsigned int msecs);

#ifdef __cplusplus
}
#endif

#endif
