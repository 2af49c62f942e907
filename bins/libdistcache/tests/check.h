/* Macros and functions that the test programs share. */
#ifndef CHECK_H
#define CHECK_H

#include <distcache/dc_client.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ends the program with a message if `what` is false. */
#define CHECK(what)                                                                       \
    do {                                                                                  \
        if (!(what)) {                                                                    \
            fprintf(stderr, "%s:%d: false: %s (last call: %s)\n", __FILE__, __LINE__, \
                    #what, DC_CTX_errstr());                                              \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

/* Whether the reason of the last failure contains this text. */
#define SAYS(text) (strstr(DC_CTX_errstr(), text) != NULL)

/* A string literal as two arguments: its bytes and their number. */
#define BYTES(text) ((const unsigned char *)(text)), ((unsigned int)(sizeof(text) - 1))

#define MINUTE 60000UL

/* Writes a session whose length and bytes depend on its owner. Returns the length. */
static unsigned int session_of(unsigned int owner, unsigned char *out, unsigned int size)
{
    unsigned int len = 50 + owner % 4000, i;
    CHECK(len <= size);
    for (i = 0; i < len; i++)
        out[i] = (unsigned char)(owner * 31 + i * 7);
    return len;
}

static DC_CTX *context(const char *target, unsigned int flags)
{
    DC_CTX *ctx = DC_CTX_new(target, flags);
    CHECK(ctx != NULL);
    return ctx;
}

/* Writes the id of an owner. Returns its length, 12. */
static unsigned int id_of(unsigned int owner, unsigned char *out)
{
    char text[16];
    sprintf(text, "id-%09u", owner % 1000000000U);
    memcpy(out, text, 12);
    return 12;
}

#endif
