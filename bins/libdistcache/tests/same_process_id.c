/*
 * Uses one context in a process and in a child with the same process id: same_process_id TARGET HOW
 * Starts as process 1 of its PID namespace, and creates the child as process 1 of another namespace: by
 * fork, or by the clone system call, which does not run the C library's fork handlers.
 */
#define _GNU_SOURCE
#include "check.h"

#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t create_child(const char *how)
{
    if (strcmp(how, "clone") == 0)
        return (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
    CHECK(unshare(CLONE_NEWPID) == 0);
    return fork();
}

static void finds(DC_CTX *ctx, const unsigned char *id, unsigned int id_len, const char *session)
{
    unsigned char out[16];
    unsigned int used;

    CHECK(DC_CTX_get_session(ctx, id, id_len, out, sizeof out, &used) == 1);
    CHECK(used == strlen(session) && memcmp(out, session, used) == 0);
}

int main(int count, char **arguments)
{
    int status = 0, round;
    DC_CTX *ctx;
    pid_t child;

    CHECK(count == 3);
    CHECK(getpid() == 1);
    ctx = context(arguments[1], DC_CTX_FLAG_PERSISTENT);
    CHECK(DC_CTX_set_timeout(ctx, 30000) == 1);
    CHECK(DC_CTX_put_session(ctx, BYTES("parent"), BYTES("parent's"), MINUTE) == 1);
    CHECK(DC_CTX_put_session(ctx, BYTES("child"), BYTES("child's"), MINUTE) == 1);
    child = create_child(arguments[2]);
    CHECK(child != -1);
    if (child == 0) {
        CHECK(getpid() == 1);
        for (round = 0; round < 200; round++)
            finds(ctx, BYTES("child"), "child's");
        _exit(0);
    }
    for (round = 0; round < 200; round++)
        finds(ctx, BYTES("parent"), "parent's");
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    finds(ctx, BYTES("parent"), "parent's");
    DC_CTX_free(ctx);
    return 0;
}
