/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * secrets TARGET FLAGS
 *
 * Does what its stdin says, one letter at a time, and answers each with a line. Wipes its own buffer
 * after each call, so that copies of a session which are found in it are the library's.
 *
 *   p, a  put, add: reads the session of SIZE bytes behind the letter
 *   g, s  get, into a buffer of SIZE bytes or of none
 *   t     take      r  remove      h  has
 */
#include <unistd.h>

#include "check.h"

#define SIZE 208

static unsigned char buffer[SIZE];

static void wipe(void)
{
    volatile unsigned char *at = buffer;
    unsigned int left;

    for (left = SIZE; left > 0; left--)
        *at++ = 0;
}

static void receive(void)
{
    unsigned int len = 0;

    while (len < SIZE) {
        ssize_t got = read(0, buffer + len, SIZE - len);

        CHECK(got > 0);
        len += (unsigned int)got;
    }
}

int main(int argc, char **argv)
{
    static const unsigned char id[] = "the id of the session";
    unsigned int used = 0, flags;
    char letter;
    DC_CTX *ctx;
    int done;

    CHECK(argc == 3);
    flags = (unsigned int)atoi(argv[2]);
    ctx = DC_CTX_new(argv[1], flags);
    CHECK(ctx != NULL);
    while (read(0, &letter, 1) == 1) {
        done = -1;
        switch (letter) {
        case 'p':
            receive();
            done = DC_CTX_put_session(ctx, id, sizeof id, buffer, SIZE, 60000);
            break;
        case 'a':
            receive();
            done = DC_CTX_add_session(ctx, id, sizeof id, buffer, SIZE, 60000);
            break;
        case 'g':
            done = DC_CTX_get_session(ctx, id, sizeof id, buffer, SIZE, &used);
            break;
        case 's':
            done = DC_CTX_get_session(ctx, id, sizeof id, NULL, 0, &used);
            break;
        case 't':
            done = DC_CTX_take_session(ctx, id, sizeof id, buffer, SIZE, &used);
            break;
        case 'r':
            done = DC_CTX_remove_session(ctx, id, sizeof id);
            break;
        case 'h':
            done = DC_CTX_has_session(ctx, id, sizeof id);
            break;
        }
        wipe();
        CHECK(letter == 'r' || letter == 'h' || letter == 'p' || letter == 'a' || used == SIZE || done != 1);
        CHECK(write(1, done == 1 ? "done\n" : "failed\n", done == 1 ? 5 : 7) > 0);
    }
    DC_CTX_free(ctx);
    return 0;
}
