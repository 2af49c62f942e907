/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Creates a context in the background while the host of its cache cannot be found.
 */
#ifndef DISTCACHE_LOOKUP_H
#define DISTCACHE_LOOKUP_H

#include <distcache/dc_client.h>

typedef struct lookup lookup_t;

/*
 * Creates a context, or returns NULL as DC_CTX_new does. The context does not pause after a timeout,
 * because the module pauses for all children together.
 */
DC_CTX *lookup_now(const char *target, unsigned int flags);

/*
 * Starts a thread that tries to create the context every two seconds until it succeeds. Returns NULL if
 * there is no thread or no memory. The result is never freed, because the thread may use it until the
 * process exits.
 */
lookup_t *lookup_start(const char *target, unsigned int flags);

/* Returns the context once it exists, and NULL before. */
DC_CTX *lookup_context(lookup_t *lookup);

#endif
