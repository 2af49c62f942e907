/* What DC_CTX_new takes for a target, and what broken ones can do: targets DIRECTORY */
#include "check.h"

#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

static void misspelt_ones_make_no_context(void)
{
    const char *bad[] = {"", "UNIX:", "UNIX", "unix:/tmp/x", "IP:", "IP:9001", "IP:localhost:",
                         "IP:localhost:0", "IP:localhost:65536", "IP:::1:9001", "IP:[::1:9001",
                         "FD:", "FD:-1", "FD:x", "FD:1000000", "/tmp/scache", "IP:a b:9001",
                         "IP:no-such-host.invalid:9001", "UNIX:/\xff\xfe"};
    char endless[5000];
    size_t i;

    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(DC_CTX_new(bad[i], 0) == NULL);
        CHECK(*DC_CTX_errstr() != '\0' && !SAYS("no failure"));
    }
    memset(endless, 'x', sizeof endless - 1);
    endless[sizeof endless - 1] = '\0';
    memcpy(endless, "UNIX:", 5);
    CHECK(DC_CTX_new(endless, 0) == NULL && strlen(DC_CTX_errstr()) < 600);
}

static void flags_say_when_to_connect(const char *directory)
{
    char nobody[1000];
    DC_CTX *ctx;
    unsigned int flags;

    CHECK(strlen(directory) < 900);
    sprintf(nobody, "UNIX:%s/nobody", directory);
    for (flags = 0; flags < 32; flags++) {
        ctx = DC_CTX_new(nobody, flags);
        if ((flags & DC_CTX_FLAG_PERSISTENT) != 0 && (flags & DC_CTX_FLAG_PERSISTENT_LATE) == 0) {
            CHECK(ctx == NULL && SAYS(nobody));
            continue;
        }
        CHECK(ctx != NULL && DC_CTX_has_session(ctx, BYTES("id")) == -1 && SAYS(nobody));
        DC_CTX_free(ctx);
    }
}

/* The one way to find out what a closed peer does to who sends, whenever that happens. */
static void a_peer_that_reads_no_more_raises_no_signal(void)
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
    int signals;
    struct sigaction before[65], after;

    CHECK(count == 2);
    signal(SIGPIPE, SIG_DFL);
    for (signals = 1; signals < 65; signals++)
        if (sigaction(signals, NULL, &before[signals]) != 0)
            before[signals].sa_handler = SIG_ERR;
    misspelt_ones_make_no_context();
    flags_say_when_to_connect(arguments[1]);
    a_peer_that_reads_no_more_raises_no_signal();
    a_pipe_is_refused();
    for (signals = 1; signals < 65; signals++)
        if (before[signals].sa_handler != SIG_ERR) {
            CHECK(sigaction(signals, NULL, &after) == 0);
            CHECK(after.sa_handler == before[signals].sa_handler);
        }
    return 0;
}
