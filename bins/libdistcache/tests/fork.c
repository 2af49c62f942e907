/* Uses one context in a parent and its child, in turn: fork TARGET FLAGS */
#include "check.h"

#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    unsigned char out[16];
    unsigned int used;
    int status = 0;
    DC_CTX *ctx;
    pid_t child;

    CHECK(count == 3);
    ctx = context(arguments[1], (unsigned int)atoi(arguments[2]));
    CHECK(DC_CTX_set_timeout(ctx, 30000) == 1);
    CHECK(DC_CTX_put_session(ctx, BYTES("id"), BYTES("before"), MINUTE) == 1);
    child = fork();
    CHECK(child != -1);
    if (child == 0) {
        CHECK(DC_CTX_get_session(ctx, BYTES("id"), out, sizeof out, &used) == 1 && used == 6);
        CHECK(DC_CTX_put_session(ctx, BYTES("id"), BYTES("child's"), MINUTE) == 1);
        DC_CTX_free(ctx);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(DC_CTX_get_session(ctx, BYTES("id"), out, sizeof out, &used) == 1);
    CHECK(used == 7 && memcmp(out, "child's", 7) == 0);
    DC_CTX_free(ctx);
    return 0;
}
