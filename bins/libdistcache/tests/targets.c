/* Creates contexts for valid, invalid and unreachable targets: targets DIRECTORY */
#include "check.h"

#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

static void invalid_targets_make_no_context(void)
{
    const char *bad[] = {"", "UNIX:", "UNIX", "unix:/tmp/x", "IP:", "IP:9001", "IP:localhost:",
                         "IP:localhost:0", "IP:localhost:65536", "IP:::1:9001", "IP:[::1:9001",
                         "FD:", "FD:-1", "FD:x", "FD:1000000", "/tmp/scache", "IP:a b:9001",
                         "IP:no-such-host.invalid:9001", "UNIX:/\xff\xfe"};
    char too_long[5000];
    size_t i;

    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(DC_CTX_new(bad[i], 0) == NULL);
        CHECK(*DC_CTX_errstr() != '\0' && !SAYS("no failure"));
    }
    memset(too_long, 'x', sizeof too_long - 1);
    too_long[sizeof too_long - 1] = '\0';
    memcpy(too_long, "UNIX:", 5);
    CHECK(DC_CTX_new(too_long, 0) == NULL && strlen(DC_CTX_errstr()) < 600);
}

static void flags_decide_when_to_connect(const char *directory)
{
    char unused_path[1000];
    DC_CTX *ctx;
    unsigned int flags;

    CHECK(strlen(directory) < 900);
    sprintf(unused_path, "UNIX:%s/nobody", directory);
    for (flags = 0; flags < 32; flags++) {
        ctx = DC_CTX_new(unused_path, flags);
        if ((flags & DC_CTX_FLAG_PERSISTENT) != 0 && (flags & DC_CTX_FLAG_PERSISTENT_LATE) == 0) {
            CHECK(ctx == NULL && SAYS(unused_path));
            continue;
        }
        CHECK(ctx != NULL && DC_CTX_has_session(ctx, BYTES("id")) == -1 && SAYS(unused_path));
        DC_CTX_free(ctx);
    }
}

/* Writing to such a socket always raises SIGPIPE, unless the library prevents it. */
static void a_peer_that_stops_reading_raises_no_signal(void)
{
    char target[32];
    int pair[2];
    DC_CTX *ctx;

    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK(shutdown(pair[1], SHUT_RD) == 0);
    sprintf(target, "FD:%d", pair[0]);
    ctx = context(target, DC_CTX_FLAG_PERSISTENT);
    CHECK(DC_CTX_has_session(ctx, BYTES("id")) == -1 && SAYS("roken pipe"));
    CHECK(DC_CTX_add_session(ctx, BYTES("id"), BYTES("session"), MINUTE) == 0);
    DC_CTX_free(ctx);
    CHECK(close(pair[1]) == 0);
}

static void a_pipe_is_refused(void)
{
    char target[64];
    int there[2], back[2];

    CHECK(pipe(there) == 0 && pipe(back) == 0);
    sprintf(target, "FD:%d:%d", back[0], there[1]);
    CHECK(DC_CTX_new(target, 0) == NULL && SAYS("SIGPIPE"));
    sprintf(target, "FD:%d", there[1]);
    CHECK(DC_CTX_new(target, DC_CTX_FLAG_PERSISTENT) == NULL && SAYS("SIGPIPE"));
}

int main(int count, char **arguments)
{
    int number;
    struct sigaction before[65], after;

    CHECK(count == 2);
    signal(SIGPIPE, SIG_DFL);
    for (number = 1; number < 65; number++)
        if (sigaction(number, NULL, &before[number]) != 0)
            before[number].sa_handler = SIG_ERR;
    invalid_targets_make_no_context();
    flags_decide_when_to_connect(arguments[1]);
    a_peer_that_stops_reading_raises_no_signal();
    a_pipe_is_refused();
    for (number = 1; number < 65; number++)
        if (before[number].sa_handler != SIG_ERR) {
            CHECK(sigaction(number, NULL, &after) == 0);
            CHECK(after.sa_handler == before[number].sa_handler);
        }
    return 0;
}
