/*
 * TLS servers on OpenSSL (1.1.1 and later) that share their sessions through libdistcache.
 *
 *     DC_CTX *cache = DC_CTX_new("UNIX:/run/distcache/scache", DC_CTX_FLAG_PERSISTENT |
 *                                                    DC_CTX_FLAG_PERSISTENT_LATE);
 *     SSL_CTX_set_session_id_context(ctx, name, name_length);
 *     DC_OPENSSL_setup(ctx, cache, 0);
 *
 * From then on a session that one server began is resumed by each that has the same cache, with TLS
 * 1.2 and 1.3. Where the cache is away, handshakes are full ones.
 *
 * It is for the caller to see to three things:
 *  - SSL_CTX_set_session_id_context: the same name on all servers that share, another one for servers
 *    that must not (other certificates, other rules for client certificates). Without one OpenSSL
 *    refuses to resume wherever it asks for client certificates.
 *  - With SNI: DC_OPENSSL_setup for each SSL_CTX that a name leads to, the first one included.
 *  - The cache stays open until each such SSL_CTX, and each SSL made of it, is freed.
 * Sessions live as long as SSL_CTX_set_timeout says.
 *
 * Sessions are secrets: who can read the cache can read what is said.
 */
#ifndef DISTCACHE_DC_OPENSSL_H
#define DISTCACHE_DC_OPENSSL_H

#include <distcache/dc_client.h>

#include <openssl/crypto.h>
#include <openssl/ssl.h>

#include <string.h>

#if OPENSSL_VERSION_NUMBER < 0x10101000L
#error "distcache/dc_openssl.h needs OpenSSL 1.1.1 or later"
#endif

/*
 * Each TLS 1.3 session is resumed once, whichever server is asked: the second client that shows it
 * gets a full handshake. It is what early data need, and where an SSL_CTX or SSL allows those
 * (SSL_CTX_set_max_early_data) it is so without the flag.
 */
#define DC_OPENSSL_SINGLE_USE 0x0001U

/* What the callbacks find beside the SSL_CTX. A table of flags, since a number can't be pointed to. */
static const unsigned int DC_OPENSSL_flags[2] = {0, DC_OPENSSL_SINGLE_USE};
static int DC_OPENSSL_cache_index = -1;
static int DC_OPENSSL_flags_index = -1;
static CRYPTO_ONCE DC_OPENSSL_once = CRYPTO_ONCE_STATIC_INIT;

static void DC_OPENSSL_init(void)
{
    DC_OPENSSL_cache_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    DC_OPENSSL_flags_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

static DC_CTX *DC_OPENSSL_cache(const SSL_CTX *ctx)
{
    return (DC_CTX *)SSL_CTX_get_ex_data(ctx, DC_OPENSSL_cache_index);
}

static DC_CTX *DC_OPENSSL_cache_of(const SSL *ssl)
{
    return DC_OPENSSL_cache(SSL_get_SSL_CTX(ssl));
}

/* A session began: keep it. What can't be kept is not resumed, and that is all. */
static int DC_OPENSSL_new_session(SSL *ssl, SSL_SESSION *session)
{
    DC_CTX *cache = DC_OPENSSL_cache_of(ssl);
    unsigned int id_len;
    const unsigned char *id = SSL_SESSION_get_id(session, &id_len);
    long lifetime = SSL_SESSION_get_timeout(session);
    int len = i2d_SSL_SESSION(session, NULL);
    unsigned char *bytes, *end;

    if (cache == NULL || id_len == 0 || len <= 0 || len > DC_MAX_TOTAL_DATA || lifetime <= 0)
        return 0;
    if ((unsigned long)lifetime > DC_MAX_TIMEOUT / 1000)
        lifetime = (long)(DC_MAX_TIMEOUT / 1000);
    bytes = end = (unsigned char *)OPENSSL_malloc((size_t)len);
    if (bytes == NULL)
        return 0;
    len = i2d_SSL_SESSION(session, &end);
    if (len > 0)
        DC_CTX_put_session(cache, id, id_len, bytes, (unsigned int)len,
                           (unsigned long)lifetime * 1000);
    OPENSSL_clear_free(bytes, (size_t)(end - bytes));
    /* 0: no reference to the session was kept. */
    return 0;
}

/* Whether a session is good for one resumption only. */
static int DC_OPENSSL_single_use(const SSL *ssl)
{
    const unsigned int *flags = (const unsigned int *)SSL_CTX_get_ex_data(
        SSL_get_SSL_CTX(ssl), DC_OPENSSL_flags_index);

    if (SSL_version(ssl) != TLS1_3_VERSION)
        return 0;
    return SSL_get_max_early_data(ssl) > 0 ||
           (flags != NULL && (*flags & DC_OPENSSL_SINGLE_USE) != 0);
}

/* A client shows the id of a session: look for it. */
static SSL_SESSION *DC_OPENSSL_get_session(SSL *ssl, const unsigned char *id, int id_len,
                                           int *copy)
{
    DC_CTX *cache = DC_OPENSSL_cache_of(ssl);
    SSL_SESSION *session = NULL;
    const unsigned char *bytes;
    unsigned char *room;
    unsigned int used = 0;
    int found;

    /* OpenSSL is to own what it gets, without a reference of ours. */
    *copy = 0;
    if (cache == NULL || id_len <= 0 ||
        (room = (unsigned char *)OPENSSL_malloc(DC_MAX_TOTAL_DATA)) == NULL)
        return NULL;
    if (DC_OPENSSL_single_use(ssl))
        found = DC_CTX_take_session(cache, id, (unsigned int)id_len, room, DC_MAX_TOTAL_DATA,
                                    &used);
    else
        found = DC_CTX_get_session(cache, id, (unsigned int)id_len, room, DC_MAX_TOTAL_DATA,
                                   &used);
    if (found == 1 && used <= DC_MAX_TOTAL_DATA) {
        bytes = room;
        session = d2i_SSL_SESSION(NULL, &bytes, (long)used);
    }
    OPENSSL_clear_free(room, used <= DC_MAX_TOTAL_DATA ? used : DC_MAX_TOTAL_DATA);
    return session;
}

/* A session is not to be resumed any more, after a fatal alert for one. */
static void DC_OPENSSL_remove_session(SSL_CTX *ctx, SSL_SESSION *session)
{
    DC_CTX *cache = DC_OPENSSL_cache(ctx);
    unsigned int id_len;
    const unsigned char *id = SSL_SESSION_get_id(session, &id_len);

    if (cache != NULL && id_len > 0)
        DC_CTX_remove_session(cache, id, id_len);
}

/*
 * Lets the servers of `ctx` keep their sessions in `cache`, and nowhere else: no tickets, which
 * servers with other keys can't read, and no cache of their own. To be called once, before the first
 * connection. `flags` are 0 or DC_OPENSSL_SINGLE_USE. 1, or 0 without memory or with a NULL.
 */
static int DC_OPENSSL_setup(SSL_CTX *ctx, DC_CTX *cache, unsigned int flags)
{
    void *kept = (void *)&DC_OPENSSL_flags[flags & DC_OPENSSL_SINGLE_USE];

    if (ctx == NULL || cache == NULL || !CRYPTO_THREAD_run_once(&DC_OPENSSL_once, DC_OPENSSL_init))
        return 0;
    if (DC_OPENSSL_cache_index < 0 || DC_OPENSSL_flags_index < 0)
        return 0;
    if (!SSL_CTX_set_ex_data(ctx, DC_OPENSSL_cache_index, cache) ||
        !SSL_CTX_set_ex_data(ctx, DC_OPENSSL_flags_index, kept))
        return 0;
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(ctx, DC_OPENSSL_new_session);
    SSL_CTX_sess_set_get_cb(ctx, DC_OPENSSL_get_session);
    SSL_CTX_sess_set_remove_cb(ctx, DC_OPENSSL_remove_session);
    return 1;
}

#endif
