/* Calls every function with valid and invalid arguments: api TARGET FLAGS */
#include "check.h"

#include <pthread.h>

static DC_CTX *ctx;

static void stores_and_fetches(void)
{
    unsigned char out[100];
    unsigned int used = 7;

    CHECK(DC_CTX_has_session(ctx, BYTES("a")) == 0 && SAYS(DC_CTX_NO_SESSION));
    CHECK(DC_CTX_get_session(ctx, BYTES("a"), out, sizeof out, &used) == 0);
    CHECK(used == 0 && strcmp(DC_CTX_errstr(), DC_CTX_NO_SESSION) == 0);

    CHECK(DC_CTX_add_session(ctx, BYTES("a"), BYTES("first"), MINUTE) == 1);
    CHECK(strcmp(DC_CTX_errstr(), "no failure") == 0);
    CHECK(DC_CTX_add_session(ctx, BYTES("a"), BYTES("second"), MINUTE) == 0);
    CHECK(!SAYS(DC_CTX_NO_SESSION) && !SAYS("no failure"));
    CHECK(DC_CTX_has_session(ctx, BYTES("a")) == 1);
    CHECK(DC_CTX_get_session(ctx, BYTES("a"), out, sizeof out, &used) == 1);
    CHECK(used == 5 && memcmp(out, "first", 5) == 0);

    CHECK(DC_CTX_put_session(ctx, BYTES("a"), BYTES("third one"), MINUTE) == 1);
    CHECK(DC_CTX_put_session(ctx, BYTES("b"), BYTES("fresh"), MINUTE) == 1);
    CHECK(DC_CTX_get_session(ctx, BYTES("a"), out, sizeof out, &used) == 1);
    CHECK(used == 9 && memcmp(out, "third one", 9) == 0);

    CHECK(DC_CTX_remove_session(ctx, BYTES("a")) == 1);
    CHECK(DC_CTX_remove_session(ctx, BYTES("a")) == 0 && SAYS(DC_CTX_NO_SESSION));
    CHECK(DC_CTX_has_session(ctx, BYTES("a")) == 0);

    CHECK(DC_CTX_take_session(ctx, BYTES("b"), out, sizeof out, &used) == 1);
    CHECK(used == 5 && memcmp(out, "fresh", 5) == 0);
    CHECK(DC_CTX_reget_session(ctx, BYTES("b"), out, sizeof out, &used) == 1 && used == 5);
    CHECK(DC_CTX_take_session(ctx, BYTES("b"), out, sizeof out, &used) == 0 && used == 0);
    CHECK(SAYS(DC_CTX_NO_SESSION));
}

static void accepts_any_lifetime(void)
{
    /* Up to the largest unsigned long. The original library crashes on those up to 500. */
    unsigned long timeouts[] = {501, 604800000UL, 604800001UL, 0xffffffffUL, ~0UL};
    unsigned long brief;
    size_t i;

    for (i = 0; i < sizeof timeouts / sizeof *timeouts; i++) {
        CHECK(DC_CTX_add_session(ctx, BYTES("long"), BYTES("session"), timeouts[i]) == 1);
        CHECK(DC_CTX_remove_session(ctx, BYTES("long")) == 1);
    }
    for (brief = 0; brief <= 500; brief += 125)
        CHECK(DC_CTX_put_session(ctx, BYTES("brief"), BYTES("session"), brief) == 1);
    CHECK(DC_CTX_put_session(ctx, BYTES("brief"), BYTES("session"), 0) == 1);
    CHECK(DC_CTX_has_session(ctx, BYTES("brief")) == 0);
}

static void copies_what_fits(void)
{
    unsigned char out[8];
    unsigned int used = 0;

    memset(out, '.', sizeof out);
    CHECK(DC_CTX_add_session(ctx, BYTES("s"), BYTES("0123456789"), MINUTE) == 1);
    CHECK(DC_CTX_get_session(ctx, BYTES("s"), out, 4, &used) == 1);
    CHECK(used == 10 && memcmp(out, "0123....", 8) == 0);
    CHECK(DC_CTX_get_session(ctx, BYTES("s"), NULL, 0, &used) == 1 && used == 10);
    CHECK(DC_CTX_reget_session(ctx, BYTES("s"), out, 8, &used) == 1);
    CHECK(used == 10 && memcmp(out, "01234567", 8) == 0);
    CHECK(DC_CTX_take_session(ctx, BYTES("s"), out, 1, &used) == 1 && used == 10);
}

static void enforces_limits(void)
{
    unsigned char *big = malloc(40000), *out = malloc(40000), id[100];
    unsigned int used, most = DC_MAX_TOTAL_DATA - DC_MAX_ID_LEN;

    CHECK(big != NULL && out != NULL);
    memset(big, 'x', 40000);
    memset(id, 'i', sizeof id);
    CHECK(DC_CTX_add_session(ctx, id, DC_MAX_ID_LEN, big, most, MINUTE) == 1);
    CHECK(DC_CTX_get_session(ctx, id, DC_MAX_ID_LEN, out, 40000, &used) == 1);
    CHECK(used == most && memcmp(out, big, most) == 0);
    CHECK(DC_CTX_remove_session(ctx, id, DC_MAX_ID_LEN) == 1);
    CHECK(DC_CTX_add_session(ctx, id, DC_MAX_ID_LEN, big, most + 1, MINUTE) == 0);
    CHECK(DC_CTX_put_session(ctx, id, DC_MAX_ID_LEN, big, 40000, MINUTE) == 0);
    CHECK(DC_CTX_put_session(ctx, id, DC_MAX_ID_LEN, big, ~0U, MINUTE) == 0);
    CHECK(DC_CTX_add_session(ctx, id, DC_MAX_ID_LEN + 1, big, 5, MINUTE) == 0);
    CHECK(DC_CTX_get_session(ctx, id, ~0U, out, 40000, &used) == 0 && used == 0);
    CHECK(DC_CTX_has_session(ctx, id, DC_MAX_ID_LEN + 1) == -1);
    free(big);
    free(out);
}

static void rejects_null_and_empty_arguments(void)
{
    const unsigned char *id = (const unsigned char *)"id";
    unsigned char out[4];
    unsigned int used = 7;

    CHECK(DC_CTX_new(NULL, 0) == NULL && SAYS("NULL"));
    DC_CTX_free(NULL);
    CHECK(SAYS("NULL"));
    CHECK(DC_CTX_add_session(NULL, id, 2, id, 2, MINUTE) == 0 && SAYS("NULL"));
    CHECK(DC_CTX_add_session(ctx, NULL, 2, id, 2, MINUTE) == 0 && SAYS("NULL"));
    CHECK(DC_CTX_add_session(ctx, id, 0, id, 2, MINUTE) == 0 && SAYS("1 to 64"));
    CHECK(DC_CTX_add_session(ctx, id, 2, NULL, 2, MINUTE) == 0 && SAYS("NULL"));
    CHECK(DC_CTX_add_session(ctx, id, 2, id, 0, MINUTE) == 0 && SAYS("empty"));
    CHECK(DC_CTX_put_session(NULL, id, 2, id, 2, MINUTE) == 0);
    CHECK(DC_CTX_put_session(ctx, id, 2, NULL, 0, MINUTE) == 0);
    CHECK(DC_CTX_remove_session(NULL, id, 2) == 0);
    CHECK(DC_CTX_remove_session(ctx, NULL, 0) == 0);
    CHECK(DC_CTX_has_session(NULL, id, 2) == -1);
    CHECK(DC_CTX_has_session(ctx, NULL, 2) == -1);
    CHECK(DC_CTX_has_session(ctx, id, 0) == -1);
    CHECK(DC_CTX_get_session(NULL, id, 2, out, 4, &used) == 0 && used == 0);
    CHECK(DC_CTX_get_session(ctx, NULL, 2, out, 4, &used) == 0);
    CHECK(DC_CTX_get_session(ctx, id, 2, NULL, 4, &used) == 0 && SAYS("result is NULL"));
    CHECK(DC_CTX_get_session(ctx, id, 2, out, 4, NULL) == 0 && SAYS("result_used is NULL"));
    CHECK(DC_CTX_reget_session(NULL, id, 2, out, 4, &used) == 0);
    CHECK(DC_CTX_take_session(NULL, id, 2, out, 4, &used) == 0);
    CHECK(DC_CTX_take_session(ctx, id, 0, out, 4, &used) == 0);
    CHECK(DC_CTX_set_timeout(NULL, 5) == 0);
    CHECK(DC_CTX_set_pause(NULL, 5) == 0 && SAYS("NULL"));
    CHECK(DC_CTX_set_pause(ctx, 0) == 1 && DC_CTX_set_pause(ctx, ~0U) == 1);
    CHECK(DC_CTX_set_sealkeys(NULL, "/none", 0) == 0 && SAYS("NULL"));
    CHECK(DC_CTX_set_sealkeys(ctx, "/no/such", 0) == 0 && SAYS("/no/such") && SAYS("-newkey"));
    CHECK(DC_CTX_set_sealkeys(ctx, NULL, DC_SEALKEYS_MIXED) == 1);
    CHECK(DC_CTX_unopened(NULL) == 0 && SAYS("NULL"));
    CHECK(DC_CTX_unopened(ctx) == 0);
    CHECK(DC_CTX_set_timeout(ctx, ~0U) == 1 && DC_CTX_set_timeout(ctx, 0) == 1);
    CHECK(DC_CTX_add_session(ctx, id, 2, id, 2, MINUTE) == 1);
    CHECK(DC_CTX_remove_session(ctx, id, 2) == 1);
}

static void *fetches_in_another_thread(void *unused)
{
    unsigned char out[16];
    unsigned int used;

    CHECK(DC_CTX_reget_session(ctx, BYTES("mine"), out, sizeof out, &used) == 0 && used == 0);
    CHECK(DC_CTX_get_session(ctx, BYTES("other"), out, sizeof out, &used) == 1 && used == 6);
    return unused;
}

static void copies_again_what_this_thread_fetched(void)
{
    unsigned char out[16];
    unsigned int used;
    pthread_t thread;

    CHECK(DC_CTX_put_session(ctx, BYTES("mine"), BYTES("my session"), MINUTE) == 1);
    CHECK(DC_CTX_put_session(ctx, BYTES("other"), BYTES("theirs"), MINUTE) == 1);
    CHECK(DC_CTX_reget_session(ctx, BYTES("mine"), out, sizeof out, &used) == 0);
    CHECK(DC_CTX_get_session(ctx, BYTES("mine"), NULL, 0, &used) == 1);
    CHECK(pthread_create(&thread, NULL, fetches_in_another_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(DC_CTX_reget_session(ctx, BYTES("mine"), out, sizeof out, &used) == 1);
    CHECK(used == 10 && memcmp(out, "my session", 10) == 0);
    CHECK(DC_CTX_reget_session(ctx, BYTES("other"), out, sizeof out, &used) == 0);
    CHECK(DC_CTX_remove_session(ctx, BYTES("mine")) == 1);
    CHECK(DC_CTX_remove_session(ctx, BYTES("other")) == 1);
}

int main(int count, char **arguments)
{
    CHECK(count == 3);
    ctx = context(arguments[1], (unsigned int)atoi(arguments[2]));
    stores_and_fetches();
    accepts_any_lifetime();
    copies_what_fits();
    enforces_limits();
    rejects_null_and_empty_arguments();
    copies_again_what_this_thread_fetched();
    DC_CTX_free(ctx);
    return 0;
}
