/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A context whose host has no address yet: looked for beside the requests, which never wait for it.
 */
#ifndef DISTCACHE_LOOKUP_H
#define DISTCACHE_LOOKUP_H

#include <distcache/dc_client.h>

typedef struct lookup lookup_t;

/* A context without a pause of its own after a timeout: all children leave the cache alone together. */
DC_CTX *lookup_now(const char *target, unsigned int flags);

/* Looks for the host of `target` until it is found, in a thread. NULL where there is no thread. */
lookup_t *lookup_start(const char *target, unsigned int flags);

/* The context once the host is found, and NULL before. */
DC_CTX *lookup_context(lookup_t *lookup);

#endif
