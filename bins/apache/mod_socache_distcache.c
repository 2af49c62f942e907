/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The cache `dc` for httpd's shared object caches, on libdistcache:
 *
 *     SSLSessionCache  dc:UNIX:/run/distcache/scache
 *     SSLStaplingCache dc:UNIX:/run/distcache/scache
 *
 * See README.md beside this file.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

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

#include "lookup.h"

extern module AP_MODULE_DECLARE_DATA socache_distcache_module;
APLOG_USE_MODULE(socache_distcache);

#define PROVIDER "dc"
#define DEFAULT_TARGET "UNIX:/run/distcache/scache"
#define CONTEXT_FLAGS \
    (DC_CTX_FLAG_PERSISTENT | DC_CTX_FLAG_PERSISTENT_PIDCHECK | DC_CTX_FLAG_PERSISTENT_RETRY \
     | DC_CTX_FLAG_PERSISTENT_LATE)

/* No TLS session has a longer id, and nobody can offer a longer one. */
#define SESSION_ID_MAX 32
/* A failure that took this long counts as a timeout: a proxy waited for its server, and gave it up. */
#define SLOW_MS 100
/* How long a cache that does not answer is left alone. */
#define PAUSE_MS 1000
/* Failures are told at most so often. */
#define TELL_S 10

/* Shared by all children, so that each tells what all did. Long is free of locks everywhere. */
typedef struct {
    atomic_ulong stores, hits, misses, removes, remove_misses;
    atomic_ulong refused;      /* not asked: an id or object that the protocol has no room for */
    atomic_ulong errors;       /* asked, and nobody could tell, or the server refused */
    atomic_ulong skipped;      /* not asked: the cache is being left alone */
    atomic_ulong told_at;      /* when failures were last told, in seconds */
    atomic_ulong told;         /* how many errors there were then */
    atomic_ulong paused_until; /* in milliseconds, odd; 0: the cache answers */
    atomic_ulong found;        /* whether it was told that the host was found after the start */
} shared_t;

struct ap_socache_instance_t {
    const char *target;
    const char *cname;
    DC_CTX *ctx;          /* NULL where the target's host was not found */
    const char *not_found; /* why not */
    lookup_t *lookup;      /* each child looks for it again */
    shared_t *shared;
    unsigned char name_space; /* the byte in front of ids; 0: sessions, which have none */
};

/* Instances that mod_ssl does not show on server-status: all but that of sessions. */
static apr_array_header_t *unshown;
/* Instances whose host was not found. */
static apr_array_header_t *unfound;

static unsigned long count(atomic_ulong *counter)
{
    return atomic_fetch_add_explicit(counter, 1, memory_order_relaxed) + 1;
}

static unsigned long read_count(atomic_ulong *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static unsigned long now_ms(void)
{
    return (unsigned long)(apr_time_now() / 1000);
}

/*
 * Ids on the wire. A session's is its own: so it is shared with every other server on distcache. All
 * else has its name space's byte, its length, itself, and zeros until it is longer than any session's
 * id: so no id that a client may offer is the key of anything else. 0 where it has no room.
 */
static unsigned int wire_id(const ap_socache_instance_t *inst, const unsigned char *id,
                            unsigned int len, unsigned char wire[DC_MAX_ID_LEN])
{
    if (len == 0 || len > (inst->name_space ? DC_MAX_ID_LEN - 2 : SESSION_ID_MAX))
        return 0;
    if (!inst->name_space) {
        memcpy(wire, id, len);
        return len;
    }
    memset(wire, 0, DC_MAX_ID_LEN);
    wire[0] = inst->name_space;
    wire[1] = (unsigned char)len;
    memcpy(wire + 2, id, len);
    return len + 2 > SESSION_ID_MAX ? len + 2 : SESSION_ID_MAX + 1;
}

/* The byte for a user of the cache: its own for mod_ssl's two, one of the upper half for any other. */
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

/* The context, or NULL while the target's host is not found. The first that has it after a wait tells. */
static DC_CTX *context(ap_socache_instance_t *inst, server_rec *s)
{
    DC_CTX *ctx = inst->ctx;

    if (!ctx && inst->lookup) {
        ctx = lookup_context(inst->lookup);
        if (ctx && atomic_exchange(&inst->shared->found, 1) == 0)
            ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, s, PROVIDER ":%s: the host is found, and the "
                         "cache is used for %s", inst->target, inst->cname);
    }
    return ctx;
}

/*
 * The context, where the cache may be asked, else NULL. After an operation that timed out it is left
 * alone for a while, by all children, and then one thread tries it: a cache that hangs costs a
 * handshake one deadline and not three, and most handshakes nothing.
 */
static DC_CTX *may_ask(ap_socache_instance_t *inst, server_rec *s)
{
    shared_t *shared = inst->shared;
    unsigned long until = read_count(&shared->paused_until), now;
    DC_CTX *ctx = context(inst, s);

    if (ctx && until == 0)
        return ctx;
    now = now_ms();
    /* The difference, so that it holds where long has 32 bits. A clock set back ends the pause. */
    if (!ctx || until - now <= PAUSE_MS + 1
        || !atomic_compare_exchange_strong(&shared->paused_until, &until, (now + PAUSE_MS) | 1)) {
        count(&shared->skipped);
        return NULL;
    }
    return ctx;
}

/* The cache has answered: whoever waits for its return may ask. */
static void answered(shared_t *shared)
{
    if (read_count(&shared->paused_until) != 0)
        atomic_store(&shared->paused_until, 0);
}

/* What to add where there is no socket below /tmp: many services have a /tmp of their own. */
static const char *hint(const char *target)
{
    if (strncmp(target, "UNIX:/tmp/", 10) != 0 && strncmp(target, "UNIX:/var/tmp/", 14) != 0)
        return "";
    return access(target + 5, F_OK) != 0 && errno == ENOENT ? " (PrivateTmp?)" : "";
}

/* The cache did not answer what was asked at `began`: counts it, and tells it where that is due. */
static void failed(ap_socache_instance_t *inst, server_rec *s, const char *what,
                   unsigned long began, const char *why)
{
    shared_t *shared = inst->shared;
    unsigned long now = now_ms(), last = read_count(&shared->told_at);
    unsigned long errors = count(&shared->errors);

    /* The deadline may be shorter than what is slow. */
    if (strstr(why, DC_CTX_TIMED_OUT) || now - began >= SLOW_MS)
        atomic_store(&shared->paused_until, (now + PAUSE_MS) | 1);
    if ((last == 0 || now / 1000 - last >= TELL_S)
        && atomic_compare_exchange_strong(&shared->told_at, &last, now / 1000)) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s,
                     PROVIDER ":%s: %s for %s: %s%s (%lu failures since the last such line; "
                     "handshakes go on without the cache)", inst->target, what, inst->cname, why,
                     hint(inst->target), errors - atomic_exchange(&shared->told, errors));
    }
}

static apr_status_t refused(ap_socache_instance_t *inst, server_rec *s, const char *what,
                            unsigned int size, apr_status_t why)
{
    count(&inst->shared->refused);
    ap_log_error(APLOG_MARK, APLOG_INFO, 0, s, PROVIDER ":%s: %s for %s has %u bytes, which has "
                 "no room", inst->target, what, inst->cname, size);
    return why;
}

/* Why the last call of this thread failed; null where it was answered, and there was nothing there. */
static const char *failure(void)
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

        if (strncmp(why, DC_CTX_NO_HOST, sizeof DC_CTX_NO_HOST - 1) != 0 || !unfound)
            return apr_psprintf(p, PROVIDER ":%s: %s; give the address of dc_client or dc_server, "
                                "such as " PROVIDER ":" DEFAULT_TARGET, inst->target, why);
        /* A name server that is away must not keep httpd from starting. */
        inst->not_found = apr_pstrdup(p, why);
        APR_ARRAY_PUSH(unfound, ap_socache_instance_t *) = inst;
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
    /* Without a name: nothing is left in the file system, and nobody else comes by it. */
    apr_status_t rv = apr_shm_create(&memory, sizeof *inst->shared, NULL, p);

    (void)hints;
    if (rv != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, rv, s, PROVIDER ":%s: no shared memory for what %s "
                     "counts", inst->target, cname);
        return rv;
    }
    inst->shared = memset(apr_shm_baseaddr_get(memory), 0, sizeof *inst->shared);
    inst->cname = apr_pstrdup(p, cname);
    inst->name_space = name_space(cname);
    if (inst->name_space && unshown)
        APR_ARRAY_PUSH(unshown, ap_socache_instance_t *) = inst;
    if (inst->not_found)
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, s, PROVIDER ":%s: %s; handshakes go on without the "
                     "cache for %s until the host is found", inst->target, inst->not_found, cname);
    return APR_SUCCESS;
}

static void dc_destroy(ap_socache_instance_t *inst, server_rec *s)
{
    (void)s;
    /* Not by a clean-up of the pool: mod_ssl's outlives this module, which a restart loads anew. */
    DC_CTX_free(inst->ctx);
    inst->ctx = NULL;
}

static apr_status_t dc_store(ap_socache_instance_t *inst, server_rec *s, const unsigned char *id,
                             unsigned int idlen, apr_time_t expiry, unsigned char *data,
                             unsigned int datalen, apr_pool_t *pool)
{
    unsigned char wire[DC_MAX_ID_LEN];
    unsigned int len = wire_id(inst, id, idlen, wire);
    apr_time_t now = apr_time_now();
    apr_int64_t lifetime = expiry > now ? (expiry - now) / 1000 : 0, max = DC_MAX_TIMEOUT;
    unsigned long began;
    DC_CTX *ctx;

    (void)pool;
    if (!len)
        return refused(inst, s, "an id", idlen, APR_EINVAL);
    if (datalen == 0 || datalen > DC_MAX_TOTAL_DATA - len)
        return refused(inst, s, "an object", datalen, datalen ? APR_ENOSPC : APR_EINVAL);
    if (lifetime < 1)
        return APR_EINVAL; /* Over before it could be stored. */
    ctx = may_ask(inst, s);
    if (!ctx)
        return APR_TIMEUP;
    began = now_ms();
    if (!DC_CTX_put_session(ctx, wire, len, data, datalen,
                            lifetime < max ? (unsigned long)lifetime : DC_MAX_TIMEOUT)) {
        failed(inst, s, "storing", began, DC_CTX_errstr());
        return APR_EGENERAL;
    }
    answered(inst->shared);
    count(&inst->shared->stores);
    return APR_SUCCESS;
}

static apr_status_t dc_retrieve(ap_socache_instance_t *inst, server_rec *s,
                                const unsigned char *id, unsigned int idlen, unsigned char *data,
                                unsigned int *datalen, apr_pool_t *pool)
{
    unsigned char wire[DC_MAX_ID_LEN];
    unsigned int len = wire_id(inst, id, idlen, wire), found = 0;
    unsigned long began;
    DC_CTX *ctx;

    (void)pool;
    if (!len)
        return refused(inst, s, "an id", idlen, APR_EINVAL);
    ctx = may_ask(inst, s);
    if (!ctx)
        return APR_TIMEUP;
    began = now_ms();
    if (!DC_CTX_get_session(ctx, wire, len, data, *datalen, &found)) {
        const char *why = failure();

        if (why) {
            failed(inst, s, "fetching", began, why);
            return APR_EGENERAL;
        }
        answered(inst->shared);
        count(&inst->shared->misses);
        ap_log_error(APLOG_MARK, APLOG_DEBUG, 0, s, PROVIDER ":%s: nothing there for %s",
                     inst->target, inst->cname);
        return APR_NOTFOUND;
    }
    answered(inst->shared);
    if (found > *datalen)
        return refused(inst, s, "what was found", found, APR_ENOSPC);
    *datalen = found;
    count(&inst->shared->hits);
    return APR_SUCCESS;
}

static apr_status_t dc_remove(ap_socache_instance_t *inst, server_rec *s, const unsigned char *id,
                              unsigned int idlen, apr_pool_t *pool)
{
    unsigned char wire[DC_MAX_ID_LEN];
    unsigned int len = wire_id(inst, id, idlen, wire);
    unsigned long began;
    DC_CTX *ctx;

    (void)pool;
    if (!len)
        return refused(inst, s, "an id", idlen, APR_EINVAL);
    ctx = may_ask(inst, s);
    if (!ctx)
        return APR_TIMEUP;
    began = now_ms();
    if (!DC_CTX_remove_session(ctx, wire, len)) {
        const char *why = failure();

        if (why) {
            failed(inst, s, "removing", began, why);
            return APR_EGENERAL;
        }
        answered(inst->shared);
        count(&inst->shared->remove_misses);
        return APR_NOTFOUND;
    }
    answered(inst->shared);
    count(&inst->shared->removes);
    return APR_SUCCESS;
}

/* The names are those of mod_socache_shmcb, as far as it has them: what reads those knows ours. */
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

/* No flags: a context serves any number of threads and processes. */
static const ap_socache_provider_t provider = {
    PROVIDER, 0, dc_create, dc_init, dc_destroy, dc_store, dc_retrieve, dc_remove, dc_status,
    dc_iterate,
};

/* ---- the module ---- */

static int show_the_unshown(request_rec *r, int flags)
{
    int i;

    for (i = 0; unshown && i < unshown->nelts; i++) {
        ap_socache_instance_t *inst = APR_ARRAY_IDX(unshown, i, ap_socache_instance_t *);

        if (!(flags & AP_STATUS_SHORT))
            ap_rprintf(r, "<hr>\n<h2>Cache of %s</h2>\n<p>", ap_escape_html(r->pool, inst->cname));
        dc_status(inst, r, flags);
        if (!(flags & AP_STATUS_SHORT))
            ap_rputs("</p>\n", r);
    }
    return OK;
}

/* Each child has connections of its own, and looks for hosts by itself. */
static void look_for_hosts(apr_pool_t *p, server_rec *s)
{
    int i;

    (void)p;
    for (i = 0; unfound && i < unfound->nelts; i++) {
        ap_socache_instance_t *inst = APR_ARRAY_IDX(unfound, i, ap_socache_instance_t *);

        if (!inst->shared)
            continue;
        inst->lookup = lookup_start(inst->target, CONTEXT_FLAGS);
        if (!inst->lookup)
            ap_log_error(APLOG_MARK, APLOG_ERR, 0, s, PROVIDER ":%s: no thread to look for the host; "
                         "this child does without the cache for %s", inst->target, inst->cname);
    }
}

/* Which of two modules of one name is used depends on their order: that is not left to chance. */
static int check_provider(apr_pool_t *p, apr_pool_t *log, apr_pool_t *tmp)
{
    (void)log, (void)tmp;
    unshown = apr_array_make(p, 1, sizeof(ap_socache_instance_t *));
    unfound = apr_array_make(p, 1, sizeof(ap_socache_instance_t *));
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
    ap_hook_child_init(look_for_hosts, NULL, NULL, APR_HOOK_MIDDLE);
    APR_OPTIONAL_HOOK(ap, status_hook, show_the_unshown, NULL, NULL, APR_HOOK_MIDDLE);
}

module AP_MODULE_DECLARE_DATA socache_distcache_module = {
    STANDARD20_MODULE_STUFF, .register_hooks = register_hooks,
};
