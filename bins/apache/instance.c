/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * See instance.h.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "instance.h"

#include "http_log.h"
#include "apr_time.h"

APLOG_USE_MODULE(socache_distcache);

/* A failure that took this long counts as a timeout: dc_client waited for its server in vain. */
#define SLOW_MS 100
/* How long the cache is not asked after a timeout. */
#define PAUSE_MS 1000
/* The least time between two warnings about failures, in seconds. */
#define LOG_INTERVAL_S 10

unsigned long dc_now_ms(void)
{
    return (unsigned long)(apr_time_now() / 1000);
}

/* Returns the context, or NULL while the host is not found. Logs once when the host has been found. */
static DC_CTX *context(ap_socache_instance_t *inst, server_rec *s)
{
    DC_CTX *ctx = inst->ctx;

    if (!ctx && inst->lookup) {
        ctx = lookup_context(inst->lookup);
        if (ctx && atomic_exchange(&inst->shared->found_logged, 1) == 0)
            ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, s, PROVIDER ":%s: the host is found, and the "
                         "cache is used for %s", inst->target, inst->cname);
    }
    return ctx;
}

DC_CTX *dc_usable_context(ap_socache_instance_t *inst, server_rec *s)
{
    shared_t *shared = inst->shared;
    unsigned long until = read_count(&shared->paused_until), now;
    DC_CTX *ctx = context(inst, s);

    if (ctx && until == 0)
        return ctx;
    now = dc_now_ms();
    /* The difference is right even if a 32-bit long wraps. A clock that is set back ends the pause. */
    if (!ctx || until - now <= PAUSE_MS + 1
        || !atomic_compare_exchange_strong(&shared->paused_until, &until, (now + PAUSE_MS) | 1)) {
        count(&shared->skipped);
        return NULL;
    }
    return ctx;
}

void dc_end_pause(shared_t *shared)
{
    if (read_count(&shared->paused_until) != 0)
        atomic_store(&shared->paused_until, 0);
}

/* Returns a hint if a socket below /tmp does not exist: systemd gives many services their own /tmp. */
static const char *private_tmp_hint(const char *target)
{
    if (strncmp(target, "UNIX:/tmp/", 10) != 0 && strncmp(target, "UNIX:/var/tmp/", 14) != 0)
        return "";
    return access(target + 5, F_OK) != 0 && errno == ENOENT ? " (PrivateTmp?)" : "";
}

void dc_count_failure(ap_socache_instance_t *inst, server_rec *s, const char *what,
                      unsigned long began, const char *why)
{
    shared_t *shared = inst->shared;
    unsigned long now = dc_now_ms(), last = read_count(&shared->logged_at);
    unsigned long errors = count(&shared->errors);

    /* The deadline may be shorter than SLOW_MS. */
    if (strstr(why, DC_CTX_TIMED_OUT) || now - began >= SLOW_MS)
        atomic_store(&shared->paused_until, (now + PAUSE_MS) | 1);
    if ((last == 0 || now / 1000 - last >= LOG_INTERVAL_S)
        && atomic_compare_exchange_strong(&shared->logged_at, &last, now / 1000)) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s,
                     PROVIDER ":%s: %s for %s: %s%s (%lu failures since the last such line; "
                     "handshakes go on without the cache)", inst->target, what, inst->cname, why,
                     private_tmp_hint(inst->target), errors - atomic_exchange(&shared->logged, errors));
    }
}

apr_status_t dc_refuse(ap_socache_instance_t *inst, server_rec *s, const char *what,
                       unsigned int size, apr_status_t status)
{
    count(&inst->shared->refused);
    ap_log_error(APLOG_MARK, APLOG_INFO, 0, s, PROVIDER ":%s: %s for %s has %u bytes, which "
                 "is out of bounds", inst->target, what, inst->cname, size);
    return status;
}
