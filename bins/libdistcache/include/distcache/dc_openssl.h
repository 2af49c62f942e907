/*
 * Session sharing for TLS servers on OpenSSL (1.1.1 or later), by libdistcache.
 *
 *     DC_CTX *cache = DC_CTX_new("UNIX:/run/distcache/scache", DC_CTX_FLAG_PERSISTENT |
 *                                                    DC_CTX_FLAG_PERSISTENT_LATE);
 *     SSL_CTX_set_session_id_context(ctx, name, name_length);
 *     DC_OPENSSL_setup(ctx, cache, 0);
 *
 * Every server with the same cache then resumes the sessions of all the others, with TLS 1.2 and 1.3.
 * While the cache is unreachable, handshakes are full ones.
 *
 * The caller has three duties:
 *  - Call SSL_CTX_set_session_id_context, with one name for all servers that share sessions and another
 *    name for servers that must not share theirs (other certificates, other rules for client
 *    certificates). Without a name, OpenSSL refuses to resume if it asks for client certificates.
 *  - With SNI, call DC_OPENSSL_setup for every SSL_CTX that a server name selects, and for the first one.
 *  - Free the cache after every such SSL_CTX, and every SSL created from one.
 *
 * Sessions live as long as SSL_CTX_set_timeout says, and 7 days at most.
 *
 * Sessions are secrets: a reader of the cache can decrypt recorded TLS 1.2 connections, and pose as the
 * client or the server in a resumption.
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
 * Allows each TLS 1.3 session to be resumed only once, on whichever server: a second attempt gets a full
 * handshake. Early data requires this, so it also applies without the flag to any SSL_CTX or SSL that
 * accepts early data (SSL_CTX_set_max_early_data).
 */
#define DC_OPENSSL_SINGLE_USE 0x0001U

/* What the callbacks find in the ex_data of an SSL_CTX: the cache, and a pointer to one of these flags. */
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

/* Stores a new session. One that cannot be stored cannot be resumed; the connection goes on. */
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
    /* 0: this callback kept no reference to the session. */
    return 0;
}

/* Returns whether a session may be resumed only once. */
static int DC_OPENSSL_single_use(const SSL *ssl)
{
    const unsigned int *flags = (const unsigned int *)SSL_CTX_get_ex_data(
        SSL_get_SSL_CTX(ssl), DC_OPENSSL_flags_index);

    if (SSL_version(ssl) != TLS1_3_VERSION)
        return 0;
    return SSL_get_max_early_data(ssl) > 0 ||
           (flags != NULL && (*flags & DC_OPENSSL_SINGLE_USE) != 0);
}

/* Fetches the session whose id a client offers. */
static SSL_SESSION *DC_OPENSSL_get_session(SSL *ssl, const unsigned char *id, int id_len,
                                           int *copy)
{
    DC_CTX *cache = DC_OPENSSL_cache_of(ssl);
    SSL_SESSION *session = NULL;
    const unsigned char *bytes;
    unsigned char *buffer;
    unsigned int used = 0;
    int found;

    /* OpenSSL owns the result: this callback keeps no reference to it. */
    *copy = 0;
    if (cache == NULL || id_len <= 0 ||
        (buffer = (unsigned char *)OPENSSL_malloc(DC_MAX_TOTAL_DATA)) == NULL)
        return NULL;
    if (DC_OPENSSL_single_use(ssl))
        found = DC_CTX_take_session(cache, id, (unsigned int)id_len, buffer, DC_MAX_TOTAL_DATA,
                                    &used);
    else
        found = DC_CTX_get_session(cache, id, (unsigned int)id_len, buffer, DC_MAX_TOTAL_DATA,
                                   &used);
    if (found == 1 && used <= DC_MAX_TOTAL_DATA) {
        bytes = buffer;
        session = d2i_SSL_SESSION(NULL, &bytes, (long)used);
    }
    OPENSSL_clear_free(buffer, used <= DC_MAX_TOTAL_DATA ? used : DC_MAX_TOTAL_DATA);
    return session;
}

/* Removes a session that must not be resumed again, for instance after a fatal alert. */
static void DC_OPENSSL_remove_session(SSL_CTX *ctx, SSL_SESSION *session)
{
    DC_CTX *cache = DC_OPENSSL_cache(ctx);
    unsigned int id_len;
    const unsigned char *id = SSL_SESSION_get_id(session, &id_len);

    if (cache != NULL && id_len > 0)
        DC_CTX_remove_session(cache, id, id_len);
}

/*
 * Makes `ctx` keep its sessions in `cache` and nowhere else. Turns off OpenSSL's internal cache, and
 * tickets, which servers with other keys cannot read. Sets the new, get and remove session callbacks.
 *
 * Call it once for each SSL_CTX, before its first connection. `flags` is 0 or DC_OPENSSL_SINGLE_USE.
 *
 * Returns 1, or 0 if an argument is NULL or there is no memory.
 */
static int DC_OPENSSL_setup(SSL_CTX *ctx, DC_CTX *cache, unsigned int flags)
{
    void *chosen = (void *)&DC_OPENSSL_flags[flags & DC_OPENSSL_SINGLE_USE];

    if (ctx == NULL || cache == NULL || !CRYPTO_THREAD_run_once(&DC_OPENSSL_once, DC_OPENSSL_init))
        return 0;
    if (DC_OPENSSL_cache_index < 0 || DC_OPENSSL_flags_index < 0)
        return 0;
    if (!SSL_CTX_set_ex_data(ctx, DC_OPENSSL_cache_index, cache) ||
        !SSL_CTX_set_ex_data(ctx, DC_OPENSSL_flags_index, chosen))
        return 0;
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(ctx, DC_OPENSSL_new_session);
    SSL_CTX_sess_set_get_cb(ctx, DC_OPENSSL_get_session);
    SSL_CTX_sess_set_remove_cb(ctx, DC_OPENSSL_remove_session);
    return 1;
}

#endif
