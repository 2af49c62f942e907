/* What the test programs have in common. */
#ifndef CHECK_H
#define CHECK_H

#include <distcache/dc_client.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ends the program with a reason where something is not so. */
#define CHECK(what)                                                                       \
    do {                                                                                  \
        if (!(what)) {                                                                    \
            fprintf(stderr, "%s:%d: not so: %s (the last call: %s)\n", __FILE__, __LINE__, \
                    #what, DC_CTX_errstr());                                              \
            exit(1);                                                                      \
        }                                                                                 \
    } while (0)

/* Whether the last call failed for this reason. */
#define SAYS(text) (strstr(DC_CTX_errstr(), text) != NULL)

#define BYTES(text) ((const unsigned char *)(text)), ((unsigned int)(sizeof(text) - 1))

#define MINUTE 60000UL

/* A session that tells by its length and by each of its bytes whose it is. */
static unsigned int session_of(unsigned int owner, unsigned char *out, unsigned int room)
{
    unsigned int len = 50 + owner % 4000, i;
    CHECK(len <= room);
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

/* Writes an id of 12 bytes. */
static unsigned int id_of(unsigned int owner, unsigned char *out)
{
    char text[16];
    sprintf(text, "id-%09u", owner % 1000000000U);
    memcpy(out, text, 12);
    return 12;
}

#endif
