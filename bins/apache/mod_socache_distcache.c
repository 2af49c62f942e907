/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The provider `dc` for httpd's shared object caches, on libdistcache:
 *
 *     SSLSessionCache  dc:UNIX:/run/distcache/scache
 *     SSLStaplingCache dc:UNIX:/run/distcache/scache
 *
 * See README.md beside this file.
 */
#include <string.h>

#include "httpd.h"
#include "http_config.h"
#include "http_core.h"
#include "http_log.h"
#include "http_protocol.h"
#include "ap_provider.h"
#include "ap_socache.h"
#include "apr_shm.h"
#include "apr_strings.h"
#include "mod_status.h"

#include <distcache/dc_client.h>

#include "instance.h"

APLOG_USE_MODULE(socache_distcache);

#define DEFAULT_TARGET "UNIX:/run/distcache/scache"
/* An older libdistcache has no such flag, and ignores it. */
#ifndef DC_CTX_FLAG_NO_REGET
#define DC_CTX_FLAG_NO_REGET 0x0010U
#endif
/* Without NO_REGET, each thread would keep a copy of the session that it fetched last. */
#define CONTEXT_FLAGS \
    (DC_CTX_FLAG_PERSISTENT | DC_CTX_FLAG_PERSISTENT_PIDCHECK | DC_CTX_FLAG_PERSISTENT_RETRY \
     | DC_CTX_FLAG_PERSISTENT_LATE | DC_CTX_FLAG_NO_REGET)

/* The longest id of a TLS session, in bytes. */
#define SESSION_ID_MAX 32

/* Instances that mod_ssl does not show on server-status: all but the one for sessions. */
static apr_array_header_t *not_shown_by_ssl;
/* Instances whose host was not found. */
static apr_array_header_t *without_host;

/*
 * Writes the key of an object in the cache, and returns its length; 0 if the id is empty or too long.
 *
 * The key of a session is its id, so that all servers on distcache share it. The key of anything else is
 * its name space, the length of its id, the id, and zeros up to more bytes than a session id can have.
 * So no session id that a client offers can be the key of anything else.
 */
static unsigned int cache_key(const ap_socache_instance_t *inst, const unsigned char *id,
                              unsigned int len, unsigned char key[DC_MAX_ID_LEN])
{
    if (len == 0 || len > (inst->name_space ? DC_MAX_ID_LEN - 2 : SESSION_ID_MAX))
        return 0;
    if (!inst->name_space) {
        memcpy(key, id, len);
        return len;
    }
    memset(key, 0, DC_MAX_ID_LEN);
    key[0] = inst->name_space;
    key[1] = (unsigned char)len;
    memcpy(key + 2, id, len);
    return len + 2 > SESSION_ID_MAX ? len + 2 : SESSION_ID_MAX + 1;
}

/* Returns the name space of a module that uses the cache: 0 and 's' for mod_ssl, else 0x80 to 0xff. */
static unsigned char name_space(const char *cname)
{
    unsigned int sum = 2166136261u;

    if (strncmp(cname, "mod_ssl-sess", 12) == 0)
        return 0;
    if (strncmp(cname, "mod_ssl-stap", 12) == 0)
        return 's';
    for (; *cname; cname++)
        sum = (sum ^ (unsigned char)*cname) * 16777619u;
    return (unsigned char)(0x80 | ((sum >> 16 ^ sum) & 0x7f));
}

/* Returns why this thread's last call failed, or NULL if the answer was that there is no such object. */
static const char *failure_reason(void)
{
    const char *why = DC_CTX_errstr();

    return strcmp(why, DC_CTX_NO_SESSION) == 0 ? NULL : why;
}

/* ---- the provider ---- */

static const char *dc_create(ap_socache_instance_t **instance, const char *arg, apr_pool_t *tmp,
                             apr_pool_t *p)
{
    ap_socache_instance_t *inst = apr_pcalloc(p, sizeof *inst);

    inst->target = arg && *arg ? apr_pstrdup(p, arg) : DEFAULT_TARGET;
    inst->ctx = lookup_now(inst->target, CONTEXT_FLAGS);
    if (!inst->ctx) {
        const char *why = DC_CTX_errstr();

        if (strncmp(why, DC_CTX_NO_HOST, sizeof DC_CTX_NO_HOST - 1) != 0 || !without_host)
            return apr_psprintf(p, PROVIDER ":%s: %s; give the address of dc_client or dc_server, "
                                "such as " PROVIDER ":" DEFAULT_TARGET, inst->target, why);
        /* httpd must start even if the name server is unreachable. */
        inst->not_found = apr_pstrdup(p, why);
        APR_ARRAY_PUSH(without_host, ap_socache_instance_t *) = inst;
        if (ap_state_query(AP_SQ_RUN_MODE) == AP_SQ_RM_CONFIG_TEST)
            ap_log_perror(APLOG_MARK, APLOG_WARNING, 0, tmp, PROVIDER ":%s: %s", inst->target, why);
    }
    *instance = inst;
    return NULL;
}

static apr_status_t dc_init(ap_socache_instance_t *inst, const char *cname,
                            const struct ap_socache_hints *hints, server_rec *s, apr_pool_t *p)
{
    apr_shm_t *memory;
    /* Anonymous memory: it leaves no file behind, and no other process can map it. */
    apr_status_t rv = apr_shm_create(&memory, sizeof *inst->shared, NULL, p);

    (void)hints;
    if (rv != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, rv, s, PROVIDER ":%s: no shared memory for the "
                     "counters of %s", inst->target, cname);
        return rv;
    }
    inst->shared = memset(apr_shm_baseaddr_get(memory), 0, sizeof *inst->shared);
    inst->cname = apr_pstrdup(p, cname);
    inst->name_space = name_space(cname);
    if (inst->name_space && not_shown_by_ssl)
        APR_ARRAY_PUSH(not_shown_by_ssl, ap_socache_instance_t *) = inst;
    if (inst->not_found)
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s, PROVIDER ":%s: %s; handshakes go on without the "
                     "cache for %s until the host is found", inst->target, inst->not_found, cname);
    return APR_SUCCESS;
}

static void dc_destroy(ap_socache_instance_t *inst, server_rec *s)
{
    (void)s;
    /* Not in a pool cleanup: the pool is mod_ssl's, and a restart unloads this module before it. */
    DC_CTX_free(inst->ctx);
    inst->ctx = NULL;
}

static apr_status_t dc_store(ap_socache_instance_t *inst, server_rec *s, const unsigned char *id,
                             unsigned int idlen, apr_time_t expiry, unsigned char *data,
                             unsigned int datalen, apr_pool_t *pool)
{
    unsigned char key[DC_MAX_ID_LEN];
    unsigned int len = cache_key(inst, id, idlen, key);
    apr_time_t now = apr_time_now();
    apr_int64_t lifetime = expiry > now ? (expiry - now) / 1000 : 0, max = DC_MAX_TIMEOUT;
    unsigned long began;
    DC_CTX *ctx;

    (void)pool;
    if (!len)
        return dc_refuse(inst, s, "an id", idlen, APR_EINVAL);
    if (datalen == 0 || datalen > DC_MAX_TOTAL_DATA - len)
        return dc_refuse(inst, s, "an object", datalen, datalen ? APR_ENOSPC : APR_EINVAL);
    if (lifetime < 1)
        return APR_EINVAL; /* Expired already. */
    ctx = dc_usable_context(inst, s);
    if (!ctx)
        return APR_TIMEUP;
    began = dc_now_ms();
    if (!DC_CTX_put_session(ctx, key, len, data, datalen,
                            lifetime < max ? (unsigned long)lifetime : DC_MAX_TIMEOUT)) {
        dc_count_failure(inst, s, "storing", began, DC_CTX_errstr());
        return APR_EGENERAL;
    }
    dc_end_pause(inst->shared);
    count(&inst->shared->stores);
    return APR_SUCCESS;
}

static apr_status_t dc_retrieve(ap_socache_instance_t *inst, server_rec *s,
                                const unsigned char *id, unsigned int idlen, unsigned char *data,
                                unsigned int *datalen, apr_pool_t *pool)
{
    unsigned char key[DC_MAX_ID_LEN];
    unsigned int len = cache_key(inst, id, idlen, key), found = 0;
    unsigned long began;
    DC_CTX *ctx;

    (void)pool;
    if (!len)
        return dc_refuse(inst, s, "an id", idlen, APR_EINVAL);
    ctx = dc_usable_context(inst, s);
    if (!ctx)
        return APR_TIMEUP;
    began = dc_now_ms();
    if (!DC_CTX_get_session(ctx, key, len, data, *datalen, &found)) {
        const char *why = failure_reason();

        if (why) {
            dc_count_failure(inst, s, "fetching", began, why);
            return APR_EGENERAL;
        }
        dc_end_pause(inst->shared);
        count(&inst->shared->misses);
        ap_log_error(APLOG_MARK, APLOG_DEBUG, 0, s, PROVIDER ":%s: nothing there for %s",
                     inst->target, inst->cname);
        return APR_NOTFOUND;
    }
    dc_end_pause(inst->shared);
    if (found > *datalen)
        return dc_refuse(inst, s, "what was found", found, APR_ENOSPC);
    *datalen = found;
    count(&inst->shared->hits);
    return APR_SUCCESS;
}

static apr_status_t dc_remove(ap_socache_instance_t *inst, server_rec *s, const unsigned char *id,
                              unsigned int idlen, apr_pool_t *pool)
{
    unsigned char key[DC_MAX_ID_LEN];
    unsigned int len = cache_key(inst, id, idlen, key);
    unsigned long began;
    DC_CTX *ctx;

    (void)pool;
    if (!len)
        return dc_refuse(inst, s, "an id", idlen, APR_EINVAL);
    ctx = dc_usable_context(inst, s);
    if (!ctx)
        return APR_TIMEUP;
    began = dc_now_ms();
    if (!DC_CTX_remove_session(ctx, key, len)) {
        const char *why = failure_reason();

        if (why) {
            dc_count_failure(inst, s, "removing", began, why);
            return APR_EGENERAL;
        }
        dc_end_pause(inst->shared);
        count(&inst->shared->remove_misses);
        return APR_NOTFOUND;
    }
    dc_end_pause(inst->shared);
    count(&inst->shared->removes);
    return APR_SUCCESS;
}

/* Uses the counter names of mod_socache_shmcb, where it has them, for programs that parse the page. */
static void dc_status(ap_socache_instance_t *inst, request_rec *r, int flags)
{
    shared_t *shared = inst->shared;
    const struct { const char *key; atomic_ulong *counter; } rows[] = {
        { "StoreCount", &shared->stores },
        { "RetrieveHitCount", &shared->hits },
        { "RetrieveMissCount", &shared->misses },
        { "RemoveHitCount", &shared->removes },
        { "RemoveMissCount", &shared->remove_misses },
        { "RefuseCount", &shared->refused },
        { "ErrorCount", &shared->errors },
        { "SkipCount", &shared->skipped },
    };
    const char *prefix = !inst->name_space ? "" : inst->name_space == 's' ? "Stapling" : inst->cname;
    int plain = flags & AP_STATUS_SHORT;
    apr_size_t i;

    ap_rprintf(r, plain ? "%sCacheType: %s\n" : "%sCache type: <b>%s</b>, ", prefix, "DC");
    ap_rprintf(r, plain ? "%sCacheTarget: %s\n" : "%sCache target: <b>%s</b><br>", prefix,
               plain ? inst->target : ap_escape_html(r->pool, inst->target));
    for (i = 0; i < sizeof rows / sizeof *rows; i++)
        ap_rprintf(r, plain ? "%sCache%s: %lu\n" : "%sCache%s: <b>%lu</b><br>", prefix, rows[i].key,
                   read_count(rows[i].counter));
}

static apr_status_t dc_iterate(ap_socache_instance_t *inst, server_rec *s, void *context,
                               ap_socache_iterator_t *iterator, apr_pool_t *pool)
{
    (void)inst, (void)s, (void)context, (void)iterator, (void)pool;
    return APR_ENOTIMPL;
}

/* No flags: httpd needs no lock, since a context serves any number of threads and processes. */
static const ap_socache_provider_t provider = {
    PROVIDER, 0, dc_create, dc_init, dc_destroy, dc_store, dc_retrieve, dc_remove, dc_status,
    dc_iterate,
};

/* ---- the module ---- */

/* Shows the caches that mod_ssl does not show on server-status. */
static int show_other_caches(request_rec *r, int flags)
{
    int i;

    for (i = 0; not_shown_by_ssl && i < not_shown_by_ssl->nelts; i++) {
        ap_socache_instance_t *inst = APR_ARRAY_IDX(not_shown_by_ssl, i, ap_socache_instance_t *);

        if (!(flags & AP_STATUS_SHORT))
            ap_rprintf(r, "<hr>\n<h2>Cache of %s</h2>\n<p>", ap_escape_html(r->pool, inst->cname));
        dc_status(inst, r, flags);
        if (!(flags & AP_STATUS_SHORT))
            ap_rputs("</p>\n", r);
    }
    return OK;
}

/* Starts this child's search for the hosts that were not found at the start of httpd. */
static void start_lookups(apr_pool_t *p, server_rec *s)
{
    int i;

    (void)p;
    for (i = 0; without_host && i < without_host->nelts; i++) {
        ap_socache_instance_t *inst = APR_ARRAY_IDX(without_host, i, ap_socache_instance_t *);

        if (!inst->shared)
            continue;
        inst->lookup = lookup_start(inst->target, CONTEXT_FLAGS);
        if (!inst->lookup)
            ap_log_error(APLOG_MARK, APLOG_ERR, 0, s, PROVIDER ":%s: cannot start a thread to look up "
                         "the host; this child does not use the cache for %s", inst->target,
                         inst->cname);
    }
}

/* Fails if another module has registered the same provider later, since httpd would use that one. */
static int check_provider(apr_pool_t *p, apr_pool_t *log, apr_pool_t *tmp)
{
    (void)log, (void)tmp;
    not_shown_by_ssl = apr_array_make(p, 1, sizeof(ap_socache_instance_t *));
    without_host = apr_array_make(p, 1, sizeof(ap_socache_instance_t *));
    if (ap_lookup_provider(AP_SOCACHE_PROVIDER_GROUP, PROVIDER, AP_SOCACHE_PROVIDER_VERSION)
        == &provider)
        return OK;
    ap_log_perror(APLOG_MARK, APLOG_EMERG, 0, p, "mod_socache_distcache: another module provides "
                  "`" PROVIDER "' too, mod_socache_dc most likely: remove its LoadModule");
    return HTTP_INTERNAL_SERVER_ERROR;
}

static void register_hooks(apr_pool_t *p)
{
    ap_register_provider(p, AP_SOCACHE_PROVIDER_GROUP, PROVIDER, AP_SOCACHE_PROVIDER_VERSION,
                         &provider);
    ap_hook_pre_config(check_provider, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_init(start_lookups, NULL, NULL, APR_HOOK_MIDDLE);
    APR_OPTIONAL_HOOK(ap, status_hook, show_other_caches, NULL, NULL, APR_HOOK_MIDDLE);
}

module AP_MODULE_DECLARE_DATA socache_distcache_module = {
    STANDARD20_MODULE_STUFF, .register_hooks = register_hooks,
};
