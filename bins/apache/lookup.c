/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * See lookup.h.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr */
#endif
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lookup.h"

/* Seconds between two attempts. */
#define RETRY_S 2

/* On the heap and never freed: the thread may run longer than any pool exists. */
struct lookup {
    _Atomic(DC_CTX *) ctx;
    unsigned int flags;
    char target[];
};

DC_CTX *lookup_now(const char *target, unsigned int flags)
{
    DC_CTX *ctx = DC_CTX_new(target, flags);

#if DISTCACHE_CLIENT_MORE >= 2
    if (ctx)
        DC_CTX_set_pause(ctx, 0);
#endif
    return ctx;
}

static void *look_up(void *argument)
{
    lookup_t *lookup = argument;
    const struct timespec interval = { RETRY_S, 0 };
    DC_CTX *ctx;

    while (!(ctx = lookup_now(lookup->target, lookup->flags)))
        nanosleep(&interval, NULL);
    atomic_store_explicit(&lookup->ctx, ctx, memory_order_release);
    return NULL;
}

/* Keeps the code of this module loaded, since nothing waits for the thread before an unload. */
static int stay_loaded(void)
{
    static const char here;
    Dl_info info;

    return dladdr(&here, &info) && dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

lookup_t *lookup_start(const char *target, unsigned int flags)
{
    size_t size = strlen(target) + 1;
    lookup_t *lookup = calloc(1, sizeof *lookup + size);
    pthread_attr_t detached;
    pthread_t thread;
    sigset_t all, before;
    int failed;

    if (!lookup)
        return NULL;
    memcpy(lookup->target, target, size);
    lookup->flags = flags;
    if (!stay_loaded() || pthread_attr_init(&detached) != 0) {
        free(lookup);
        return NULL;
    }
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    /* Only httpd's own threads handle signals. */
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    failed = pthread_create(&thread, &detached, look_up, lookup);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
    if (failed) {
        free(lookup);
        return NULL;
    }
    return lookup;
}

DC_CTX *lookup_context(lookup_t *lookup)
{
    return atomic_load_explicit(&lookup->ctx, memory_order_acquire);
}
