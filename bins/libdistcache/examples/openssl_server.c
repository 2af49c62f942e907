/*
 * A TLS server that shares its sessions: start two of them, and each resumes what the other began.
 *
 *     cc openssl_server.c -o openssl_server $(pkg-config --cflags --libs distcache openssl) -lpthread
 *     ./openssl_server 127.0.0.1:4433 cert.pem key.pem UNIX:/run/distcache/scache [once]
 *
 * Answers each connection with one line, "full TLSv1.3" or "resumed TLSv1.2" and so on. With `once`
 * a session of TLS 1.3 is resumed only once. SIGTERM ends it when the open connections are done.
 */
#include <distcache/dc_openssl.h>

#include <openssl/err.h>

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

/* How long a client may take over each step, and how many there are at a time. */
#define PATIENCE_S 5
#define CLIENTS_MAX 64
/* How long a session may be resumed. */
#define LIFETIME_S 300

static SSL_CTX *tls;
static int clients;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t left = PTHREAD_COND_INITIALIZER;
static volatile sig_atomic_t ending;
/* The thread whose client left last. */
static pthread_t departed;
static int some_departed;

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "openssl_server: %s: %s\n", what, why);
    exit(1);
}

static void end(int signal)
{
    (void)signal;
    ending = 1;
}

/* Waits until there are at most `most` clients; then counts `more` of them. */
static void count_clients(int most, int more)
{
    pthread_mutex_lock(&lock);
    while (clients > most)
        pthread_cond_wait(&left, &lock);
    clients += more;
    pthread_cond_signal(&left);
    pthread_mutex_unlock(&lock);
}

/*
 * Ends the thread of a client. What a thread has of its own is freed until it is joined, so each joins the
 * one before it, and the last one is for main.
 */
static void depart(void)
{
    pthread_t before;
    int some_before;

    pthread_mutex_lock(&lock);
    before = departed;
    some_before = some_departed;
    departed = pthread_self();
    some_departed = 1;
    clients--;
    pthread_cond_signal(&left);
    pthread_mutex_unlock(&lock);
    if (some_before)
        pthread_join(before, NULL);
}

static void greet(SSL *ssl)
{
    char line[64], rest[512];
    int len;

    if (SSL_accept(ssl) != 1)
        return;
    len = snprintf(line, sizeof line, "%s %s\n", SSL_session_reused(ssl) ? "resumed" : "full",
                   SSL_get_version(ssl));
    if (SSL_write(ssl, line, len) != len || SSL_shutdown(ssl) < 0)
        return;
    /* Closing now would throw away the line if the client has sent anything. */
    shutdown(SSL_get_fd(ssl), SHUT_WR);
    while (SSL_read(ssl, rest, sizeof rest) > 0 && !ending) {
    }
}

static void *serve(void *number)
{
    struct timeval patience = {PATIENCE_S, 0};
    int fd = (int)(long)number;
    SSL *ssl = SSL_new(tls);

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (ssl != NULL && SSL_set_fd(ssl, fd) == 1)
        greet(ssl);
    SSL_free(ssl);
    close(fd);
    ERR_clear_error();
    depart();
    return NULL;
}

static int listen_on(char *address)
{
    struct addrinfo hints, *found;
    char host[256], port[16], *colon = strrchr(address, ':');
    struct sockaddr_storage own;
    socklen_t len = sizeof own;
    int fd, status, yes = 1;

    if (colon == NULL)
        fail(address, "it is not ADDRESS:PORT");
    *colon = '\0';
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE;
    status = getaddrinfo(address, colon + 1, &hints, &found);
    if (status != 0)
        fail(address, gai_strerror(status));
    fd = socket(found->ai_family, SOCK_STREAM, 0);
    if (fd == -1 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 128) != 0 ||
        fcntl(fd, F_SETFL, O_NONBLOCK) != 0 || getsockname(fd, (struct sockaddr *)&own, &len) != 0)
        fail(address, strerror(errno));
    freeaddrinfo(found);
    getnameinfo((struct sockaddr *)&own, len, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    printf("openssl_server: listening on %s:%s\n", host, port);
    fflush(stdout);
    return fd;
}

static SSL_CTX *configure(const char *cert, const char *key, DC_CTX *cache, unsigned int flags)
{
    static const unsigned char name[] = "openssl_server";
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

    if (ctx == NULL || SSL_CTX_use_certificate_chain_file(ctx, cert) != 1 ||
        SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
        fail(cert, ERR_reason_error_string(ERR_peek_last_error()));
    SSL_CTX_set_timeout(ctx, LIFETIME_S);
    if (SSL_CTX_set_session_id_context(ctx, name, sizeof name - 1) != 1 ||
        DC_OPENSSL_setup(ctx, cache, flags) != 1)
        fail("sessions", "no memory");
    return ctx;
}

/* Takes clients until a signal ends it. */
static void run(int listener, const sigset_t *unblocked)
{
    pthread_t thread;
    fd_set ready;
    int fd;

    while (!ending) {
        FD_ZERO(&ready);
        FD_SET(listener, &ready);
        /* Only here does a signal come in, so that none comes between the question and the wait. */
        if (pselect(listener + 1, &ready, NULL, NULL, NULL, unblocked) != 1)
            continue;
        fd = accept(listener, NULL, NULL);
        if (fd == -1)
            continue;
        count_clients(CLIENTS_MAX - 1, 1);
        if (pthread_create(&thread, NULL, serve, (void *)(long)fd) != 0) {
            close(fd);
            count_clients(CLIENTS_MAX, -1);
        }
    }
}

int main(int count, char **arguments)
{
    struct sigaction action;
    sigset_t blocked, unblocked;
    DC_CTX *cache;
    int listener;
    unsigned int flags = count == 6 && strcmp(arguments[5], "once") == 0 ? DC_OPENSSL_SINGLE_USE : 0;

    if (count < 5 || count > 6 || (count == 6 && flags == 0))
        fail("usage", "openssl_server ADDRESS:PORT CERT KEY CACHE [once]");
    memset(&action, 0, sizeof action);
    action.sa_handler = end;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    pthread_sigmask(SIG_BLOCK, &blocked, &unblocked);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    /* OpenSSL writes to clients that may be gone. */
    signal(SIGPIPE, SIG_IGN);

    cache = DC_CTX_new(arguments[4], DC_CTX_FLAG_PERSISTENT | DC_CTX_FLAG_PERSISTENT_RETRY |
                                         DC_CTX_FLAG_PERSISTENT_LATE);
    if (cache == NULL)
        fail("cache", DC_CTX_errstr());
    tls = configure(arguments[2], arguments[3], cache, flags);
    listener = listen_on(arguments[1]);
    run(listener, &unblocked);
    close(listener);
    count_clients(0, 0);
    if (some_departed)
        pthread_join(departed, NULL);
    SSL_CTX_free(tls);
    DC_CTX_free(cache);
    return 0;
}
