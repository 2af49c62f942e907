/*
 * Loads the library by dlopen, as servers load modules, and refuses the n-th allocation of each thread's
 * first call, or all from the n-th on: allocation_refused_dlopen LIBRARY
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* glibc's allocator, which the functions below replace. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *place, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

/* As in allocation_refused.c. */
static __thread long left;
static __thread int all;
static __thread int refused;

static int refuses(void)
{
    if (left == 0 || --left > 0)
        return 0;
    if (all)
        left = 1;
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

/* glibc allocates thread-local variables by this. */
void *aligned_alloc(size_t alignment, size_t size)
{
    return refuses() ? NULL : __libc_memalign(alignment, size);
}

static struct {
    void *(*make)(const char *target, unsigned int flags);
    void (*free)(void *ctx);
    const char *(*errstr)(void);
} library;

struct job {
    long n;
    int mode, some;
};

static void *calls_first(void *given)
{
    struct job *job = given;
    const char *reason;
    void *ctx;

    left = job->n;
    all = job->mode;
    ctx = library.make("UNIX:/nowhere", 0);
    reason = library.errstr();
    left = 0;
    job->some = refused;
    if (ctx == NULL && (!job->some || strcmp(reason, "no memory") != 0)) {
        fprintf(stderr, "allocation %ld: no context: %s\n", job->n, reason);
        exit(1);
    }
    library.free(ctx);
    return NULL;
}

int main(int count, char **arguments)
{
    void *loaded = count == 2 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    struct job job;
    pthread_t thread;

    if (loaded == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    *(void **)&library.make = dlsym(loaded, "DC_CTX_new");
    *(void **)&library.free = dlsym(loaded, "DC_CTX_free");
    *(void **)&library.errstr = dlsym(loaded, "DC_CTX_errstr");
    for (job.mode = 0; job.mode < 2; job.mode++) {
        job.some = 1;
        for (job.n = 1; job.some; job.n++) {
            if (pthread_create(&thread, NULL, calls_first, &job) != 0)
                return 1;
            pthread_join(thread, NULL);
        }
    }
    return 0;
}
