/*
 * Forks while another thread is in the first call of the process: firstfork ROUNDS
 * At each allocation of that call, and then ROUNDS times at any moment.
 */
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

/* Ends a child that hangs: far longer than a child takes. */
#define PATIENCE 20
#define SPREAD 3000

void *__libc_malloc(size_t size);

/* In the thread that calls: the allocation at which it waits for the fork, counted down to 0. */
static __thread int left;
static volatile int started, arrived, forked, ended;

void *malloc(size_t size)
{
    if (left > 0 && --left == 0) {
        arrived = 1;
        while (!forked)
            sched_yield();
    }
    return __libc_malloc(size);
}

static void *calls(void *allocation)
{
    while (!started)
        ;
    left = *(int *)allocation;
    CHECK(DC_CTX_new("nowhere", 0) == NULL);
    left = 0;
    ended = 1;
    return NULL;
}

/*
 * In a process that has made no call yet: 0 where the child could make one. With an `allocation` above
 * 0 the fork is at that one, and 2 says that there are fewer.
 */
static int forks_during_the_first_call(int allocation, unsigned int delay)
{
    volatile unsigned int wait_for = delay;
    pthread_t thread;
    int status = 0, met = 1;
    pid_t child;

    CHECK(pthread_create(&thread, NULL, calls, &allocation) == 0);
    started = 1;
    while (wait_for > 0)
        wait_for--;
    while (allocation > 0 && !arrived && !ended)
        sched_yield();
    if (allocation > 0)
        met = arrived;
    child = fork();
    CHECK(child != -1);
    if (child == 0) {
        alarm(PATIENCE);
        CHECK(DC_CTX_new("nowhere", 0) == NULL);
        _exit(0);
    }
    forked = 1;
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(waitpid(child, &status, 0) == child);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return 1;
    return met ? 0 : 2;
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
        result = in_a_new_process(0, round * 7 % SPREAD);
        CHECK(result == 0 && "the child of a fork at some moment hangs");
    }
    return 0;
}
