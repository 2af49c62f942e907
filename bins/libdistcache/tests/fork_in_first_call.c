/*
 * Forks while another thread makes the first call of the process: fork_in_first_call ROUNDS
 * First at each allocation of that call, then ROUNDS times at varying moments.
 */
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

/* Seconds after which a child that hangs is ended. */
#define CHILD_TIMEOUT_S 20
/* The longest delay before a fork, in turns of an empty loop. */
#define DELAY_MAX 3000

void *__libc_malloc(size_t size);

/* In the thread that calls: the number of the allocation that waits for the fork, counted down. */
static __thread int countdown;
static volatile int started, arrived, forked, ended;

void *malloc(size_t size)
{
    if (countdown > 0 && --countdown == 0) {
        arrived = 1;
        while (!forked)
            sched_yield();
    }
    return __libc_malloc(size);
}

static void *makes_the_first_call(void *allocation)
{
    while (!started)
        ;
    countdown = *(int *)allocation;
    CHECK(DC_CTX_new("nowhere", 0) == NULL);
    countdown = 0;
    ended = 1;
    return NULL;
}

/*
 * Runs in a process that has made no call yet. Returns 0 if the child could make a call, else 1. If
 * `allocation` is above 0, forks at that allocation of the call; returns 2 if there are fewer.
 */
static int forks_during_the_first_call(int allocation, unsigned int delay)
{
    volatile unsigned int wait_for = delay;
    pthread_t thread;
    int status = 0, reached = 1;
    pid_t child;

    CHECK(pthread_create(&thread, NULL, makes_the_first_call, &allocation) == 0);
    started = 1;
    while (wait_for > 0)
        wait_for--;
    while (allocation > 0 && !arrived && !ended)
        sched_yield();
    if (allocation > 0)
        reached = arrived;
    child = fork();
    CHECK(child != -1);
    if (child == 0) {
        alarm(CHILD_TIMEOUT_S);
        CHECK(DC_CTX_new("nowhere", 0) == NULL);
        _exit(0);
    }
    forked = 1;
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return 1;
    return reached ? 0 : 2;
}

static int in_a_new_process(int allocation, unsigned int delay)
{
    int status = 0;
    pid_t child = fork();

    CHECK(child != -1);
    if (child == 0)
        _exit(forks_during_the_first_call(allocation, delay));
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}

int main(int count, char **arguments)
{
    unsigned int round, rounds;
    int allocation = 0, result;

    CHECK(count == 2);
    rounds = (unsigned int)atoi(arguments[1]);
    do {
        result = in_a_new_process(++allocation, 0);
        CHECK(result != 1 && "the child of a fork at an allocation hangs");
    } while (result == 0);
    CHECK(allocation > 1);
    for (round = 0; round < rounds; round++) {
        result = in_a_new_process(0, round * 7 % DELAY_MAX);
        CHECK(result == 0 && "the child of a fork after a delay hangs");
    }
    return 0;
}
