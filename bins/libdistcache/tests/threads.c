/* Uses one context in sixteen threads: threads TARGET FLAGS. Forks meanwhile: threads TARGET FLAGS fork */
#include "check.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 16
#define ROUNDS 150

static DC_CTX *ctx;
/* The number of the first session of this process. */
static unsigned int first;

static void *works(void *number)
{
    unsigned int thread = *(unsigned int *)number, round, used, len, id_len;
    unsigned char id[16], session[5000], out[5000];

    for (round = 0; round < ROUNDS; round++) {
        unsigned int owner = first + thread * ROUNDS + round;
        id_len = id_of(owner, id);
        len = session_of(owner, session, sizeof session);
        CHECK(DC_CTX_add_session(ctx, id, id_len, session, len, MINUTE) == 1);
        CHECK(DC_CTX_get_session(ctx, id, id_len, out, sizeof out, &used) == 1);
        CHECK(used == len && memcmp(out, session, len) == 0);
        memset(out, 0, len);
        CHECK(DC_CTX_reget_session(ctx, id, id_len, out, sizeof out, &used) == 1);
        CHECK(used == len && memcmp(out, session, len) == 0);
        CHECK(DC_CTX_has_session(ctx, id, id_len) == 1);
        CHECK(DC_CTX_remove_session(ctx, id, id_len) == 1);
        CHECK(DC_CTX_get_session(ctx, id, id_len, out, sizeof out, &used) == 0);
        CHECK(SAYS(DC_CTX_NO_SESSION));
    }
    return NULL;
}

static void start(pthread_t *threads, unsigned int *numbers)
{
    unsigned int i;
    for (i = 0; i < THREADS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, works, &numbers[i]) == 0);
    }
}

static void finish(pthread_t *threads)
{
    unsigned int i;
    for (i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

int main(int count, char **arguments)
{
    pthread_t threads[THREADS];
    unsigned int numbers[THREADS];
    int status = 0;
    pid_t child = 0;

    CHECK(count == 3 || count == 4);
    ctx = context(arguments[1], (unsigned int)atoi(arguments[2]));
    /* Sixteen threads may wait long on a few cores. */
    CHECK(DC_CTX_set_timeout(ctx, 30000) == 1);
    CHECK(DC_CTX_has_session(ctx, BYTES("warm")) == 0);
    start(threads, numbers);
    if (count == 4) {
        /* The threads may hold locks at this moment. */
        child = fork();
        CHECK(child != -1);
        if (child == 0) {
            first = 1000000;
            start(threads, numbers);
            finish(threads);
            _exit(0);
        }
    }
    finish(threads);
    if (child != 0) {
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    DC_CTX_free(ctx);
    return 0;
}
