/* Cancels threads during calls to a cache that never answers: cancel DIRECTORY */
#include "check.h"

#include <pthread.h>
#include <semaphore.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define ROUNDS 200

static DC_CTX *ctx;
static sem_t calling;

static void *calls_until_cancelled(void *unused)
{
    unsigned char out[16];
    unsigned int used;

    CHECK(sem_post(&calling) == 0);
    for (;;) {
        CHECK(DC_CTX_get_session(ctx, BYTES("id"), out, sizeof out, &used) == 0);
        CHECK(used == 0 && SAYS("deadline"));
        pthread_testcancel();
    }
    return unused;
}

/* A call restores the cancellation state of its thread. */
static void keeps_the_cancellation_state(void)
{
    int states[] = {PTHREAD_CANCEL_DISABLE, PTHREAD_CANCEL_ENABLE}, state;
    size_t i;

    for (i = 0; i < 2; i++) {
        CHECK(pthread_setcancelstate(states[i], NULL) == 0);
        CHECK(DC_CTX_has_session(ctx, BYTES("id")) == -1);
        CHECK(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state) == 0);
        CHECK(state == states[i]);
    }
}

int main(int count, char **arguments)
{
    struct sockaddr_un address;
    char target[200];
    pthread_t thread;
    void *end;
    int fd, round;

    CHECK(count == 2 && strlen(arguments[1]) < 90);
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    sprintf(address.sun_path, "%s/silent", arguments[1]);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(listen(fd, 4096) == 0);
    sprintf(target, "UNIX:%s", address.sun_path);
    ctx = context(target, DC_CTX_FLAG_PERSISTENT | DC_CTX_FLAG_PERSISTENT_LATE);
    CHECK(DC_CTX_set_timeout(ctx, 10) == 1);
    /* Without a pause each call waits, so that it can be cancelled. */
    CHECK(DC_CTX_set_pause(ctx, 0) == 1);
    CHECK(sem_init(&calling, 0, 0) == 0);
    for (round = 0; round < ROUNDS; round++) {
        CHECK(pthread_create(&thread, NULL, calls_until_cancelled, NULL) == 0);
        CHECK(sem_wait(&calling) == 0);
        CHECK(pthread_cancel(thread) == 0);
        CHECK(pthread_join(thread, &end) == 0);
        CHECK(end == PTHREAD_CANCELED);
    }
    keeps_the_cancellation_state();
    DC_CTX_free(ctx);
    CHECK(close(fd) == 0);
    CHECK(unlink(address.sun_path) == 0);
    return 0;
}
