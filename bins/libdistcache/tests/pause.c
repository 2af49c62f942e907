/* Uses a cache that accepts connections and never answers: pause DIRECTORY */
#include "check.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int silent;

static const char *silent_cache(const char *directory)
{
    static char target[200];
    struct sockaddr_un address;

    CHECK(strlen(directory) < 90);
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    sprintf(address.sun_path, "%s/silent", directory);
    sprintf(target, "UNIX:%s", address.sun_path);
    silent = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(silent, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(listen(silent, 4096) == 0);
    CHECK(fcntl(silent, F_SETFL, O_NONBLOCK) == 0);
    return target;
}

/* Returns how many connections were made since the last call. */
static unsigned int new_connections(void)
{
    unsigned int count = 0;
    int fd;

    while ((fd = accept(silent, NULL, NULL)) != -1) {
        close(fd);
        count++;
    }
    return count;
}

static int paused(void)
{
    return SAYS("left alone") && SAYS(DC_CTX_TIMED_OUT);
}

static void a_new_context_pauses(DC_CTX *ctx)
{
    unsigned int tries = 0;

    /* The second call is left out, unless a second passes between the two. */
    do {
        CHECK(DC_CTX_has_session(ctx, BYTES("id")) == -1);
        CHECK(SAYS(DC_CTX_TIMED_OUT) && ++tries < 100);
    } while (!paused());
    CHECK(tries >= 2 && new_connections() >= 1);
}

static void during_a_pause_every_call_fails_at_once(DC_CTX *ctx)
{
    unsigned char out[16];
    unsigned int used, round;

    CHECK(DC_CTX_set_pause(ctx, 24 * 3600 * 1000) == 1);
    CHECK(DC_CTX_has_session(ctx, BYTES("id")) == -1 && !paused());
    CHECK(new_connections() == 1);
    /* The test would not end if one of these calls waited. */
    CHECK(DC_CTX_set_timeout(ctx, 3600 * 1000) == 1);
    for (round = 0; round < 1000; round++) {
        CHECK(DC_CTX_has_session(ctx, BYTES("id")) == -1 && paused());
        CHECK(DC_CTX_get_session(ctx, BYTES("id"), out, sizeof out, &used) == 0 && paused());
        CHECK(DC_CTX_take_session(ctx, BYTES("id"), out, sizeof out, &used) == 0 && paused());
        CHECK(DC_CTX_add_session(ctx, BYTES("id"), BYTES("session"), MINUTE) == 0 && paused());
        CHECK(DC_CTX_put_session(ctx, BYTES("id"), BYTES("session"), MINUTE) == 0 && paused());
        CHECK(DC_CTX_remove_session(ctx, BYTES("id")) == 0 && paused());
    }
    CHECK(new_connections() == 0);
}

static void without_a_pause_every_call_waits(DC_CTX *ctx)
{
    unsigned int round;

    CHECK(DC_CTX_set_timeout(ctx, 10) == 1);
    CHECK(DC_CTX_set_pause(ctx, 0) == 1);
    for (round = 0; round < 5; round++) {
        CHECK(DC_CTX_has_session(ctx, BYTES("id")) == -1);
        CHECK(SAYS(DC_CTX_TIMED_OUT) && !paused());
    }
    CHECK(new_connections() == 5);
}

int main(int count, char **arguments)
{
    DC_CTX *ctx;

    CHECK(count == 2);
    ctx = context(silent_cache(arguments[1]),
                  DC_CTX_FLAG_PERSISTENT | DC_CTX_FLAG_PERSISTENT_LATE);
    CHECK(DC_CTX_set_timeout(ctx, 10) == 1);
    a_new_context_pauses(ctx);
    during_a_pause_every_call_fails_at_once(ctx);
    without_a_pause_every_call_waits(ctx);
    DC_CTX_free(ctx);
    return 0;
}
