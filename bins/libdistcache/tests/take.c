/*
 * Stores COUNT sessions, or takes as many of them as it gets and prints their numbers:
 * take TARGET store|take COUNT
 */
#include "check.h"

int main(int count, char **arguments)
{
    unsigned char id[16], session[5000], out[5000];
    unsigned int owner, owners, len, used;
    DC_CTX *ctx;

    CHECK(count == 4);
    ctx = context(arguments[1], DC_CTX_FLAG_PERSISTENT);
    CHECK(DC_CTX_set_timeout(ctx, 30000) == 1);
    owners = (unsigned int)atoi(arguments[3]);
    for (owner = 0; owner < owners; owner++) {
        len = session_of(owner, session, sizeof session);
        if (strcmp(arguments[2], "store") == 0) {
            CHECK(DC_CTX_add_session(ctx, id, id_of(owner, id), session, len, MINUTE) == 1);
        } else if (DC_CTX_take_session(ctx, id, id_of(owner, id), out, sizeof out, &used) == 1) {
            CHECK(used == len && memcmp(out, session, len) == 0);
            printf("%u\n", owner);
        } else {
            CHECK(SAYS(DC_CTX_NO_SESSION));
        }
    }
    DC_CTX_free(ctx);
    return 0;
}
