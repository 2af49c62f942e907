/*
 * Refuses the n-th allocation of a call, or all from the n-th on, for every n: allocation_refused TARGET
 * Every call must fail without effect or succeed, and the process must go on.
 */
#include "check.h"

#include <errno.h>
#include <pthread.h>

/* glibc's allocator, which the functions below replace. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *place, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

/* In this thread: the number of the allocation that is refused, counted down; 0 for none. */
static __thread long countdown;
/* Whether all later ones are refused too. */
static __thread int all_later;
static __thread int refused;

/* Longer than a block of the library's reserve. */
static unsigned char session[2000];

static int refuses(void)
{
    if (countdown == 0 || --countdown > 0)
        return 0;
    if (all_later)
        countdown = 1;
    refused = 1;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size)
{
    return refuses() ? NULL : __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    return refuses() ? NULL : __libc_calloc(count, size);
}

void *realloc(void *place, size_t size)
{
    return refuses() ? NULL : __libc_realloc(place, size);
}

int posix_memalign(void **place, size_t alignment, size_t size)
{
    if (refuses())
        return ENOMEM;
    *place = __libc_memalign(alignment, size);
    return *place == NULL ? ENOMEM : 0;
}

static void refuse(long n, int those_after)
{
    refused = 0;
    all_later = those_after;
    countdown = n;
}

/* Refuses no more. Returns whether anything was refused. */
static int refuse_no_more(void)
{
    countdown = 0;
    return refused;
}

static void creating_a_context_fails_or_succeeds(const char *target, unsigned int flags, int good)
{
    int mode, any_refused = 1;
    DC_CTX *ctx;
    long n;

    for (mode = 0; mode < 2; mode++) {
        for (n = 1; n == 1 || any_refused; n++) {
            CHECK(n < 1000);
            refuse(n, mode);
            ctx = DC_CTX_new(target, flags);
            any_refused = refuse_no_more();
            CHECK(ctx != NULL || *DC_CTX_errstr() != '\0');
            CHECK(ctx != NULL || any_refused || !good);
            /* A context must not live in the reserve, which is only for the duration of a call. */
            CHECK(ctx == NULL || (good && !any_refused));
            if (ctx != NULL)
                CHECK(DC_CTX_has_session(ctx, BYTES("none")) == 0);
            DC_CTX_free(ctx);
        }
        CHECK(n > 2);
    }
}

struct job {
    DC_CTX *ctx;
    int call, mode, any_refused, done;
    long n;
};

/* Makes call number `call`. Returns whether it did what it should. */
static int make_call(DC_CTX *ctx, int call)
{
    unsigned char out[sizeof session];
    unsigned int used;
    int done;

    switch (call) {
    case 0:
        done = DC_CTX_get_session(ctx, BYTES("id"), out, sizeof out, &used);
        CHECK(done == 0 || (used == sizeof session && memcmp(out, session, used) == 0));
        break;
    case 1:
        done = DC_CTX_put_session(ctx, BYTES("id"), session, sizeof session, MINUTE);
        break;
    case 2:
        done = DC_CTX_add_session(ctx, BYTES("id"), session, sizeof session, MINUTE);
        CHECK(done == 0);
        return 1;
    case 3:
        done = DC_CTX_has_session(ctx, BYTES("id"));
        CHECK(done != 0);
        done = done == 1;
        break;
    case 4:
        done = DC_CTX_set_timeout(ctx, 30000);
        break;
    case 5:
        /* A session that did not fit can be had by reget, whatever was refused. */
        done = DC_CTX_take_session(ctx, BYTES("id"), NULL, 0, &used);
        if (done == 1) {
            refuse_no_more();
            CHECK(DC_CTX_reget_session(ctx, BYTES("id"), out, sizeof out, &used) == 1);
            CHECK(used == sizeof session && memcmp(out, session, used) == 0);
        }
        break;
    default:
        done = DC_CTX_remove_session(ctx, BYTES("id"));
    }
    CHECK(done == 1 || SAYS("memory"));
    return done;
}

static void *calls_first(void *given)
{
    struct job *job = given;

    refuse(job->n, job->mode);
    job->done = make_call(job->ctx, job->call);
    job->any_refused = refuse_no_more();
    return NULL;
}

static void first_calls_of_threads_fail_or_succeed(const char *target, unsigned int flags)
{
    DC_CTX *ctx = context(target, flags);
    struct job job;
    pthread_t thread;
    unsigned char out[sizeof session];
    unsigned int used;

    CHECK(DC_CTX_set_timeout(ctx, 30000) == 1);
    for (job.call = 0; job.call < 7; job.call++)
        for (job.mode = 0; job.mode < 2; job.mode++) {
            job.any_refused = 1;
            for (job.n = 1; job.any_refused; job.n++) {
                CHECK(job.n < 1000);
                CHECK(DC_CTX_put_session(ctx, BYTES("id"), session, sizeof session, MINUTE) == 1);
                job.ctx = ctx;
                CHECK(pthread_create(&thread, NULL, calls_first, &job) == 0);
                CHECK(pthread_join(thread, NULL) == 0);
                /* A call that failed has not lost the session. */
                if (!job.done) {
                    CHECK(job.any_refused);
                    CHECK(DC_CTX_get_session(ctx, BYTES("id"), out, sizeof out, &used) == 1);
                    CHECK(used == sizeof session && memcmp(out, session, used) == 0);
                }
            }
        }
    DC_CTX_free(ctx);
}

int main(int count, char **arguments)
{
    CHECK(count == 2);
    memset(session, 's', sizeof session);
    creating_a_context_fails_or_succeeds(arguments[1], 0, 1);
    creating_a_context_fails_or_succeeds(arguments[1], DC_CTX_FLAG_PERSISTENT, 1);
    creating_a_context_fails_or_succeeds("nowhere", 0, 0);
    creating_a_context_fails_or_succeeds("IP:localhost:0", 0, 0);
    creating_a_context_fails_or_succeeds("IP:no-such-host.invalid:1", 0, 0);
    creating_a_context_fails_or_succeeds("FD:1000000", 0, 0);
    first_calls_of_threads_fail_or_succeed(arguments[1], 0);
    first_calls_of_threads_fail_or_succeed(arguments[1], DC_CTX_FLAG_PERSISTENT);
    return 0;
}
