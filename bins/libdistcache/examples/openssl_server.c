/*
 * A TLS server that shares its sessions. Start two of them, and each resumes the sessions of the other.
 *
 *     cc openssl_server.c -o openssl_server $(pkg-config --cflags --libs distcache openssl) -lpthread
 *     ./openssl_server 127.0.0.1:4433 cert.pem key.pem UNIX:/run/distcache/scache [once]
 *
 * Answers each connection with one line such as "full TLSv1.3" or "resumed TLSv1.2". With `once`, each
 * TLS 1.3 session can be resumed only once. On SIGTERM the server finishes its connections and exits.
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

/* How long one read or write of a client may take, and the most clients at a time. */
#define CLIENT_TIMEOUT_S 5
#define CLIENTS_MAX 64
/* How long a session can be resumed. */
#define SESSION_LIFETIME_S 300

static SSL_CTX *tls;
static int clients;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t client_left = PTHREAD_COND_INITIALIZER;
static volatile sig_atomic_t stopping;
/* The last thread that has finished and is not joined yet. */
static pthread_t finished;
static int has_finished;

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "openssl_server: %s: %s\n", what, why);
    exit(1);
}

static void stop(int signal)
{
    (void)signal;
    stopping = 1;
}

/* Waits until there are at most `most` clients, then adds `more` to their number. */
static void count_clients(int most, int more)
{
    pthread_mutex_lock(&lock);
    while (clients > most)
        pthread_cond_wait(&client_left, &lock);
    clients += more;
    pthread_cond_signal(&client_left);
    pthread_mutex_unlock(&lock);
}

/*
 * Ends the thread of a client. Each thread joins the one that finished before it, and main joins the last
 * one, so that at exit no thread is still freeing its thread-local data.
 */
static void finish(void)
{
    pthread_t before;
    int has_before;

    pthread_mutex_lock(&lock);
    before = finished;
    has_before = has_finished;
    finished = pthread_self();
    has_finished = 1;
    clients--;
    pthread_cond_signal(&client_left);
    pthread_mutex_unlock(&lock);
    if (has_before)
        pthread_join(before, NULL);
}

/* Does the handshake and sends the line. */
static void greet(SSL *ssl)
{
    char line[64], ignored[512];
    int len;

    if (SSL_accept(ssl) != 1)
        return;
    len = snprintf(line, sizeof line, "%s %s\n", SSL_session_reused(ssl) ? "resumed" : "full",
                   SSL_get_version(ssl));
    if (SSL_write(ssl, line, len) != len || SSL_shutdown(ssl) < 0)
        return;
    /* Closing now would discard the line if the client has sent anything. */
    shutdown(SSL_get_fd(ssl), SHUT_WR);
    while (SSL_read(ssl, ignored, sizeof ignored) > 0 && !stopping) {
    }
}

static void *serve(void *number)
{
    struct timeval timeout = {CLIENT_TIMEOUT_S, 0};
    int fd = (int)(long)number;
    SSL *ssl = SSL_new(tls);

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    if (ssl != NULL && SSL_set_fd(ssl, fd) == 1)
        greet(ssl);
    SSL_free(ssl);
    close(fd);
    ERR_clear_error();
    finish();
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
        fail(address, "not ADDRESS:PORT");
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
    SSL_CTX_set_timeout(ctx, SESSION_LIFETIME_S);
    if (SSL_CTX_set_session_id_context(ctx, name, sizeof name - 1) != 1 ||
        DC_OPENSSL_setup(ctx, cache, flags) != 1)
        fail("sessions", "no memory");
    return ctx;
}

/* Accepts clients until a signal arrives. */
static void accept_clients(int listener, const sigset_t *unblocked)
{
    pthread_t thread;
    fd_set ready;
    int fd;

    while (!stopping) {
        FD_ZERO(&ready);
        FD_SET(listener, &ready);
        /* Signals are unblocked only here, so none is lost between the test of `stopping` and the wait. */
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
    action.sa_handler = stop;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    pthread_sigmask(SIG_BLOCK, &blocked, &unblocked);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    /* OpenSSL writes to sockets whose clients may have left. */
    signal(SIGPIPE, SIG_IGN);

    cache = DC_CTX_new(arguments[4], DC_CTX_FLAG_PERSISTENT | DC_CTX_FLAG_PERSISTENT_RETRY |
                                         DC_CTX_FLAG_PERSISTENT_LATE | DC_CTX_FLAG_NO_REGET);
    if (cache == NULL)
        fail("cache", DC_CTX_errstr());
    tls = configure(arguments[2], arguments[3], cache, flags);
    listener = listen_on(arguments[1]);
    accept_clients(listener, &unblocked);
    close(listener);
    count_clients(0, 0);
    if (has_finished)
        pthread_join(finished, NULL);
    SSL_CTX_free(tls);
    DC_CTX_free(cache);
    return 0;
}
