/*
 * Waits for a cache that hangs, until the timeout: setuid TARGET EXPECTED
 * EXPECTED is "own" if the program runs setuid, else "caller".
 */
#define _GNU_SOURCE
#include "check.h"

#include <unistd.h>

int main(int count, char **arguments)
{
    DC_CTX *ctx;

    CHECK(count == 3);
    CHECK((getuid() != geteuid()) == (strcmp(arguments[2], "own") == 0));
    ctx = context(arguments[1], 0);
    /* With the caller's DISTCACHE_TIMEOUT_MS this takes a day. */
    CHECK(DC_CTX_has_session(ctx, BYTES("id")) == -1 && SAYS(DC_CTX_TIMED_OUT));
    DC_CTX_free(ctx);
    return 0;
}
