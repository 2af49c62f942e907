/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * One cache that httpd uses: its counters, its pause after a timeout, and its warnings. All children of
 * an httpd share them.
 */
#ifndef DISTCACHE_INSTANCE_H
#define DISTCACHE_INSTANCE_H

#include <stdatomic.h>

#include "httpd.h"
#include "http_config.h"
#include "ap_socache.h"

#include <distcache/dc_client.h>

#include "lookup.h"

extern module AP_MODULE_DECLARE_DATA socache_distcache_module;

/* The name of the provider, in directives and in the log. */
#define PROVIDER "dc"

/* In memory that all children share. An atomic long needs no lock on any platform of httpd. */
typedef struct {
    atomic_ulong stores, hits, misses, removes, remove_misses;
    atomic_ulong refused;      /* not asked: id or object too large for the protocol */
    atomic_ulong errors;       /* asked: no answer, or the server refused */
    atomic_ulong skipped;      /* not asked: paused, or the host is not found */
    atomic_ulong logged_at;    /* time of the last warning, in seconds */
    atomic_ulong logged;       /* value of `errors` at that time */
    atomic_ulong paused_until; /* end of the pause in milliseconds, made odd; 0: no pause */
    atomic_ulong found_logged; /* 1 once the log says that a missing host was found */
} shared_t;

struct ap_socache_instance_t {
    const char *target;
    const char *cname;
    DC_CTX *ctx;              /* NULL if the host of the target was not found at the start */
    const char *not_found;    /* the reason, if so */
    lookup_t *lookup;         /* each child's own search for the host, if so */
    shared_t *shared;
    unsigned char name_space; /* first byte of the keys; 0 for sessions, whose keys have none */
};

/* Adds 1, and returns the new value. */
static inline unsigned long count(atomic_ulong *counter)
{
    return atomic_fetch_add_explicit(counter, 1, memory_order_relaxed) + 1;
}

static inline unsigned long read_count(atomic_ulong *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* Returns the time in milliseconds. */
unsigned long dc_now_ms(void);

/*
 * Returns the context if the cache may be asked now, else NULL and counts a skipped request. After a
 * timeout all children pause, and after the pause one thread tries the cache again. So a cache that
 * hangs delays one handshake in each pause by one deadline, not every handshake by three.
 */
DC_CTX *dc_usable_context(ap_socache_instance_t *inst, server_rec *s);

/* Ends the pause: the cache has answered. */
void dc_end_pause(shared_t *shared);

/*
 * Counts a request, made at `began`, that the cache did not answer or refused. `what` names the
 * operation and `why` the reason. Pauses after a timeout, and logs a warning unless the last one is recent.
 */
void dc_count_failure(ap_socache_instance_t *inst, server_rec *s, const char *what,
                      unsigned long began, const char *why);

/* Counts an object or id, `what`, that is too large or empty, and returns `status`. */
apr_status_t dc_refuse(ap_socache_instance_t *inst, server_rec *s, const char *what,
                       unsigned int size, apr_status_t status);

#endif
