/* Makes calls while there is no memory, and again afterwards: out_of_memory TARGET FLAGS */
#include "check.h"

#include <sys/resource.h>

/* The allocated pieces, as a linked list. */
static void **held;

static void allocate_everything(void)
{
    size_t size;
    void **piece;

    for (size = 1 << 20; size >= 64; size /= 4)
        while ((piece = malloc(size)) != NULL) {
            *piece = held;
            held = piece;
        }
}

static void free_everything(void)
{
    void **piece;

    while ((piece = held) != NULL) {
        held = *piece;
        free(piece);
    }
}

int main(int count, char **arguments)
{
    struct rlimit limit = {1 << 28, 1 << 28};
    static unsigned char big[30000], out[30000];
    unsigned int flags, used;
    DC_CTX *ctx;

    CHECK(count == 3);
    flags = (unsigned int)atoi(arguments[2]);
    ctx = context(arguments[1], flags);
    CHECK(DC_CTX_set_timeout(ctx, 30000) == 1);
    CHECK(DC_CTX_put_session(ctx, BYTES("id"), BYTES("session"), MINUTE) == 1);
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    allocate_everything();
    CHECK(DC_CTX_new(arguments[1], flags) == NULL && SAYS("memory"));
    CHECK(DC_CTX_has_session(ctx, BYTES("id")) == -1 && SAYS("memory"));
    CHECK(DC_CTX_get_session(ctx, BYTES("id"), out, sizeof out, &used) == 0 && SAYS("memory"));
    CHECK(DC_CTX_put_session(ctx, BYTES("id"), big, sizeof big, MINUTE) == 0 && SAYS("memory"));
    CHECK(DC_CTX_take_session(ctx, BYTES("id"), out, sizeof out, &used) == 0 && SAYS("memory"));
    free_everything();
    CHECK(DC_CTX_get_session(ctx, BYTES("id"), out, sizeof out, &used) == 1 && used == 7);
    CHECK(DC_CTX_put_session(ctx, BYTES("id"), big, sizeof big, MINUTE) == 1);
    DC_CTX_free(ctx);
    return 0;
}
