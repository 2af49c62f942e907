/*
 * Sealed sessions:
 *   sealed functions TARGET FLAGS KEY KEYS BAD    KEYS has another key before that of KEY
 *   sealed fork TARGET FLAGS KEY
 *   sealed vector TARGET KEY ID SESSION           both in hexadecimal: fetches it
 *   sealed environment TARGET EXPECTED KEY        with DISTCACHE_SEALKEYS set
 */
#define _GNU_SOURCE
#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

#define SECRET "the master secret of a session"
#define SECRET_LEN (sizeof(SECRET) - 1)
#define OVERHEAD 48U
#define EACH 50U

static int is_miss(void) { return strcmp(DC_CTX_errstr(), DC_CTX_NO_SESSION) == 0; }

/* Whether the context fetches the secret. If not, that is a miss. */
static int finds(DC_CTX *ctx, const char *id)
{
    unsigned char out[200];
    unsigned int used;

    if (!DC_CTX_get_session(ctx, (const unsigned char *)id, (unsigned int)strlen(id), out, sizeof out,
                            &used)) {
        CHECK(is_miss() && used == 0);
        return 0;
    }
    CHECK(used == SECRET_LEN && memcmp(out, SECRET, SECRET_LEN) == 0);
    return 1;
}

/* Fetches the envelope that the cache has. */
static void stored(DC_CTX *plain, const unsigned char *id, unsigned int id_len, unsigned char *out)
{
    unsigned int used;

    CHECK(DC_CTX_get_session(plain, id, id_len, out, 200, &used) == 1);
    CHECK(used == SECRET_LEN + OVERHEAD && out[0] == 0xD5);
    CHECK(memmem(out, used, "secret", 6) == NULL);
}

static void functions(char **arguments)
{
    static unsigned char large[DC_MAX_TOTAL_DATA], fetched[DC_MAX_TOTAL_DATA];
    unsigned int flags = (unsigned int)atoi(arguments[3]), used;
    DC_CTX *plain = context(arguments[2], flags), *one = context(arguments[2], flags);
    DC_CTX *two = context(arguments[2], flags);
    unsigned char envelope[200];

    CHECK(DC_CTX_set_sealkeys(one, arguments[4], 0) == 1);
    CHECK(DC_CTX_set_sealkeys(two, arguments[5], 0) == 1);
    CHECK(DC_CTX_put_session(one, BYTES("id"), BYTES(SECRET), MINUTE) == 1);
    CHECK(finds(one, "id") && finds(two, "id"));
    CHECK(DC_CTX_reget_session(one, BYTES("id"), fetched, sizeof fetched, &used) == 1);
    CHECK(used == SECRET_LEN && memcmp(fetched, SECRET, used) == 0);
    stored(plain, BYTES("id"), envelope);

    /* Under another id, changed, and sealed by a key that `one` does not have. */
    CHECK(DC_CTX_put_session(plain, BYTES("di"), envelope, SECRET_LEN + OVERHEAD, MINUTE) == 1);
    CHECK(!finds(one, "di") && DC_CTX_unopened(one) == 1);
    envelope[60] ^= 1;
    CHECK(DC_CTX_put_session(plain, BYTES("id"), envelope, SECRET_LEN + OVERHEAD, MINUTE) == 1);
    CHECK(!finds(one, "id") && DC_CTX_unopened(one) == 2);
    CHECK(DC_CTX_reget_session(one, BYTES("id"), fetched, sizeof fetched, &used) == 0);
    CHECK(DC_CTX_put_session(two, BYTES("id"), BYTES(SECRET), MINUTE) == 1);
    CHECK(!finds(one, "id") && DC_CTX_unopened(one) == 3 && finds(two, "id"));

    /* Planted, and found only in mixed mode. A bad file changes neither keys nor mode. */
    CHECK(DC_CTX_put_session(plain, BYTES("id"), BYTES(SECRET), MINUTE) == 1);
    CHECK(!finds(one, "id") && DC_CTX_unopened(one) == 4);
    CHECK(DC_CTX_take_session(two, BYTES("id"), fetched, sizeof fetched, &used) == 0 && is_miss());
    CHECK(DC_CTX_put_session(plain, BYTES("id"), BYTES(SECRET), MINUTE) == 1);
    CHECK(DC_CTX_set_sealkeys(two, arguments[5], DC_SEALKEYS_MIXED) == 1 && finds(two, "id"));
    CHECK(DC_CTX_set_sealkeys(two, arguments[6], 0) == 0 && SAYS("line 1 is not a key"));
    CHECK(finds(two, "id"));
    CHECK(DC_CTX_put_session(one, BYTES("id"), BYTES(SECRET), MINUTE) == 1 && finds(two, "id"));
    CHECK(DC_CTX_take_session(one, BYTES("id"), fetched, sizeof fetched, &used) == 1);
    CHECK(used == SECRET_LEN && DC_CTX_has_session(one, BYTES("id")) == 0);

    /* The largest with a seal. */
    memset(large, 'x', sizeof large);
    CHECK(DC_CTX_put_session(one, BYTES("id"), large, sizeof large - 2 - OVERHEAD + 1, MINUTE) == 0);
    CHECK(SAYS("too long"));
    CHECK(DC_CTX_put_session(one, BYTES("id"), large, sizeof large - 2 - OVERHEAD, MINUTE) == 1);
    CHECK(DC_CTX_get_session(one, BYTES("id"), fetched, sizeof fetched, &used) == 1);
    CHECK(used == sizeof large - 2 - OVERHEAD && memcmp(fetched, large, used) == 0);

    CHECK(DC_CTX_set_sealkeys(one, NULL, 0) == 1);
    CHECK(DC_CTX_put_session(one, BYTES("id"), BYTES(SECRET), MINUTE) == 1 && finds(plain, "id"));
    CHECK(DC_CTX_remove_session(plain, BYTES("id")) == 1);
    CHECK(DC_CTX_remove_session(plain, BYTES("di")) == 1);
    DC_CTX_free(plain);
    DC_CTX_free(one);
    DC_CTX_free(two);
}

static void store_all(DC_CTX *ctx, unsigned int first)
{
    unsigned char id[16];
    unsigned int owner, len;

    for (owner = first; owner < first + EACH; owner++) {
        len = id_of(owner, id);
        CHECK(DC_CTX_put_session(ctx, id, len, BYTES(SECRET), MINUTE) == 1);
    }
}

/* Parent, child and grandchild use one context after forks, and never a nonce twice. */
static void forked(char **arguments)
{
    static unsigned char seen[3 * EACH][24];
    unsigned char id[16], envelope[200];
    unsigned int flags = (unsigned int)atoi(arguments[3]), owner, other;
    DC_CTX *ctx = context(arguments[2], flags), *plain = context(arguments[2], flags);
    int status = 0;
    pid_t child;

    CHECK(DC_CTX_set_sealkeys(ctx, arguments[4], 0) == 1);
    CHECK(DC_CTX_put_session(ctx, BYTES("id"), BYTES(SECRET), MINUTE) == 1);
    child = fork();
    CHECK(child != -1);
    if (child == 0) {
        pid_t grandchild = fork();
        CHECK(grandchild != -1);
        store_all(ctx, grandchild == 0 ? 2 * EACH : EACH);
        CHECK(finds(ctx, "id"));
        if (grandchild != 0) {
            CHECK(waitpid(grandchild, &status, 0) == grandchild);
            CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        }
        _exit(0);
    }
    store_all(ctx, 0);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    for (owner = 0; owner < 3 * EACH; owner++) {
        stored(plain, id, id_of(owner, id), envelope);
        memcpy(seen[owner], envelope + 8, 24);
        for (other = 0; other < owner; other++)
            CHECK(memcmp(seen[owner], seen[other], 24) != 0);
    }
    DC_CTX_free(ctx);
    DC_CTX_free(plain);
}

static void environment(char **arguments)
{
    const char *expected = arguments[3];
    DC_CTX *ctx = DC_CTX_new(arguments[2], 0), *mixed;
    int seals = strcmp(expected, "plain") != 0, is_mixed = strcmp(expected, "mixed") == 0;

    if (ctx == NULL) {
        CHECK(SAYS(expected));
        return;
    }
    CHECK(!seals || is_mixed || strcmp(expected, "sealed") == 0);
    CHECK(DC_CTX_put_session(ctx, BYTES("id"), BYTES(SECRET), MINUTE) == 1 && finds(ctx, "id"));
    unsetenv("DISTCACHE_SEALKEYS");
    mixed = context(arguments[2], 0);
    if (seals) {
        unsigned char envelope[200];
        stored(mixed, BYTES("id"), envelope);
    } else {
        CHECK(finds(mixed, "id"));
    }
    CHECK(DC_CTX_put_session(mixed, BYTES("id"), BYTES(SECRET), MINUTE) == 1);
    CHECK(finds(ctx, "id") == (!seals || is_mixed));
    DC_CTX_free(ctx);
    DC_CTX_free(mixed);
}

static unsigned int bytes_of(const char *digits, unsigned char *out, unsigned int size)
{
    unsigned int len = (unsigned int)strlen(digits) / 2, at, value;

    CHECK(len <= size);
    for (at = 0; at < len; at++) {
        CHECK(sscanf(digits + 2 * at, "%2x", &value) == 1);
        out[at] = (unsigned char)value;
    }
    return len;
}

static void vector(char **arguments)
{
    static unsigned char session[4000], fetched[4000];
    unsigned char id[64];
    unsigned int used, id_len = bytes_of(arguments[4], id, sizeof id);
    unsigned int len = bytes_of(arguments[5], session, sizeof session);
    DC_CTX *ctx = context(arguments[2], 0);

    CHECK(DC_CTX_set_sealkeys(ctx, arguments[3], 0) == 1);
    CHECK(DC_CTX_get_session(ctx, id, id_len, fetched, sizeof fetched, &used) == 1);
    CHECK(used == len && memcmp(fetched, session, len) == 0);
    DC_CTX_free(ctx);
}

int main(int count, char **arguments)
{
    CHECK(count >= 4);
    if (strcmp(arguments[1], "functions") == 0 && count == 7)
        functions(arguments);
    else if (strcmp(arguments[1], "fork") == 0 && count == 5)
        forked(arguments);
    else if (strcmp(arguments[1], "vector") == 0 && count == 6)
        vector(arguments);
    else if (strcmp(arguments[1], "environment") == 0 && count == 5)
        environment(arguments);
    else
        CHECK(!"known arguments");
    return 0;
}
