/* Forks while another thread is in the first call of the process: firstfork ROUNDS */
#include "check.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

/* Ends a child that hangs: far longer than a child takes. */
#define PATIENCE 30

static volatile int go;

static void *calls(void *nothing)
{
    while (!go)
        ;
    CHECK(DC_CTX_new("nowhere", 0) == NULL);
    return nothing;
}

/* In a process that has made no call yet. */
static int forks_during_the_first_call(unsigned int round)
{
    pthread_t thread;
    volatile unsigned int wait = round * 7 % 3000;
    int status = 0;
    pid_t child;

    CHECK(pthread_create(&thread, NULL, calls, NULL) == 0);
    go = 1;
    while (wait > 0)
        wait--;
    child = fork();
    CHECK(child != -1);
    if (child == 0) {
        alarm(PATIENCE);
        CHECK(DC_CTX_new("nowhere", 0) == NULL);
        _exit(0);
    }
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
}

int main(int count, char **arguments)
{
    unsigned int round, rounds;
    int status = 0;
    pid_t child;

    CHECK(count == 2);
    rounds = (unsigned int)atoi(arguments[1]);
    for (round = 0; round < rounds; round++) {
        child = fork();
        CHECK(child != -1);
        if (child == 0)
            _exit(forks_during_the_first_call(round));
        CHECK(waitpid(child, &status, 0) == child);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            fprintf(stderr, "firstfork: round %u: the child hangs\n", round);
            return 1;
        }
    }
    return 0;
}
