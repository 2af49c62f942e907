/*
 * Keeps calling while its server is stopped or killed: server_lost TARGET FLAGS WAIT
 *
 * Prints "ready" and reads a line. Then checks that every call fails, the first one after WAIT ms at the
 * earliest, and prints "done". For every further line, checks that calls work again, and prints "well".
 */
#include "check.h"

#include <signal.h>
#include <time.h>

/* Returns a monotonic time in milliseconds. */
static long now(void)
{
    struct timespec time;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &time) == 0);
    return (long)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static void expect_wait(DC_CTX *ctx, long wait)
{
    long start = now();
    CHECK(DC_CTX_has_session(ctx, BYTES("id")) == -1);
    /* Both times are rounded down. */
    CHECK(now() - start >= wait - 1);
}

static void expect_failures(DC_CTX *ctx)
{
    static unsigned char big[30000];
    unsigned char out[100];
    unsigned int used, round;

    CHECK(DC_CTX_set_timeout(ctx, 30) == 1);
    for (round = 0; round < 3; round++) {
        CHECK(DC_CTX_has_session(ctx, BYTES("id")) == -1 && !SAYS(DC_CTX_NO_SESSION));
        CHECK(DC_CTX_get_session(ctx, BYTES("id"), out, sizeof out, &used) == 0 && used == 0);
        CHECK(!SAYS(DC_CTX_NO_SESSION));
        CHECK(DC_CTX_take_session(ctx, BYTES("id"), out, sizeof out, &used) == 0);
        CHECK(DC_CTX_add_session(ctx, BYTES("id2"), big, sizeof big, MINUTE) == 0);
        CHECK(DC_CTX_put_session(ctx, BYTES("id2"), big, sizeof big, MINUTE) == 0);
        CHECK(DC_CTX_remove_session(ctx, BYTES("id")) == 0 && !SAYS(DC_CTX_NO_SESSION));
    }
}

static void expect_success(DC_CTX *ctx)
{
    unsigned char out[100];
    unsigned int used;

    /* A busy machine may answer late. */
    CHECK(DC_CTX_set_timeout(ctx, 30000) == 1);
    CHECK(DC_CTX_put_session(ctx, BYTES("id"), BYTES("session"), MINUTE) == 1);
    CHECK(DC_CTX_get_session(ctx, BYTES("id"), out, sizeof out, &used) == 1 && used == 7);
}

int main(int count, char **arguments)
{
    char line[16];
    DC_CTX *ctx;

    CHECK(count == 4);
    signal(SIGPIPE, SIG_DFL);
    ctx = context(arguments[1], (unsigned int)atoi(arguments[2]));
    expect_success(ctx);
    printf("ready\n");
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) != NULL) {
        CHECK(DC_CTX_set_timeout(ctx, 0) == 1);
        /* Without a pause each call waits for an answer. */
        CHECK(DC_CTX_set_pause(ctx, 0) == 1);
        expect_wait(ctx, atol(arguments[3]));
        expect_failures(ctx);
        printf("done\n");
        fflush(stdout);
    }
    while (fgets(line, sizeof line, stdin) != NULL) {
        expect_success(ctx);
        printf("well\n");
        fflush(stdout);
    }
    DC_CTX_free(ctx);
    return 0;
}
