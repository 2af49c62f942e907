//! The command lines of the programs, as tables: what each program's `main` reads, `-h` prints, and
//! documents say.

use crate::load;
use crate::options::table::{Command, Entry, Group};
use crate::program;

/// All programs that are installed.
pub const ALL: [&Command; 4] = [&DC_CLIENT, &DC_SERVER, &DC_SNOOP, &DC_TEST];

const ADDRESSES: &str = "Addresses: UNIX:/path, UNIX:@name, IP:host:port, IP:[::1]:port; IPv4: and \
    IPv6: instead of IP: insist on one family; FD:n or FD:r:w are inherited descriptors.";
const LISTEN_ADDRESSES: &str = "To listen on all interfaces: IP:port, IPv6:port. For stunnel's sessiond, over UDP: \
    SESSIOND:host:port.";
const UNITS: &str = "Times take ms, s, m, h or d, as in 250ms or 5s; without a unit they are in \
    milliseconds. Numbers of things take k and M (1000 and 1000000), numbers of bytes K, M and G \
    (powers of 1024).";
const END: &str = "Without -listen it listens on the sockets that LISTEN_FDS hands over, if any. SIGTERM and \
     SIGINT end it in order, once everything received so far is answered.";

/// The cache.
pub const DC_SERVER: Command = Command {
    name: "dc_server",
    synopsis: "[options]",
    about: "Keeps TLS sessions for dc_client, or for anything else that speaks distcache.",
    groups: &[
        &Group {
            title: "Where",
            options: &[Entry::valued(&["listen"], "addr", "where to listen, up to 16 times")
                .default("IP:127.0.0.1:9001")
                .repeated()],
        },
        &Group {
            title: "Sessions",
            options: &[
                Entry::valued(
                    &["sessions"],
                    "n",
                    "how many sessions to hold, up to 16777216; after that, the oldest sessions of \
                     each class of lifetimes are evicted",
                )
                .default("65536"),
                Entry::valued(
                    &["maxmem"],
                    "bytes",
                    "how many bytes of sessions to hold; after that, the same rule evicts (default: \
                     2K for each of -sessions, and at least 64M)",
                ),
                Entry::valued(
                    &["mintimeout"],
                    "time",
                    "let sessions live at least that long, whatever is asked for",
                )
                .default("0, as long as asked for"),
                Entry::valued(
                    &["maxtimeout"],
                    "time",
                    "let sessions live at most that long, whatever is asked for, up to 7d",
                )
                .default("1d"),
            ],
        },
        &Group {
            title: "Restart",
            options: &[
                Entry::valued(
                    &["state"],
                    "file",
                    "write the sessions there at the end, and read them at the start; not with \
                     dc_client -replicas 2: what was removed meanwhile comes back",
                ),
                Entry::valued(
                    &["statewrite"],
                    "s",
                    "write them every s seconds while it runs, too; after a crash, sessions removed \
                     since then come back",
                )
                .default("never"),
                Entry::valued(
                    &["sealkeys"],
                    "file",
                    "encrypt the state with the first key of this file, and open it with any of \
                     them; dc_client -newkey prints a key; SIGHUP reads the file again",
                ),
                Entry::valued(
                    &["handover"],
                    "path",
                    "take over sockets, clients and sessions from the server that was started with \
                     the same path, if one runs, and pass them on to the next; a socket in a \
                     directory that only root or this user can write to",
                ),
            ],
        },
        &Group {
            title: "Copies",
            options: &[
                Entry::valued(
                    &["copyfrom"],
                    "addr",
                    "at the start, while serving, copy the sessions of that server, up to 31 times; \
                     that server needs -allowcopy",
                )
                .repeated(),
                Entry::valued(
                    &["copyshare"],
                    "addr",
                    "copy only what dc_client -replicas 2 keeps here: this server's address there; \
                     give the other servers' addresses to -copyfrom, letter by letter",
                ),
                Entry::valued(
                    &["proxyretry"],
                    "time",
                    "the longest -retry of the proxies with -replicas 2; for that long and 3s more \
                     after the start nothing is copied or repaired, since removals may not come here",
                )
                .default("5s"),
                Entry::switch(
                    &["allowcopy"],
                    "let every client list all sessions, as -copyfrom of another server needs",
                ),
            ],
        },
        &Group { title: "Clients", options: &[MAXCONN, IDLE, SERVER_REQTIMEOUT] },
        &Group {
            title: "Output",
            options: &[Entry::valued(
                &["progress"],
                "n",
                "print a line after every n operations, and in the foreground each second while \
                 anything changes",
            )
            .default("0, no lines")],
        },
        &program::DAEMON,
    ],
    notes: &[ADDRESSES, LISTEN_ADDRESSES, UNITS, END],
    example: "dc_server -listen IP:9001 -sessions 200k -maxmem 1G -user nobody",
};

const MAXCONN: Entry =
    Entry::valued(&["maxconn"], "n", "how many clients at a time; more are refused")
        .default("4096");
const IDLE: Entry =
    Entry::valued(&["idle"], "time", "close a client that asks nothing for that long")
        .default("0, never");
const SERVER_REQTIMEOUT: Entry = Entry::valued(
    &["reqtimeout"],
    "time",
    "close a client that leaves a request unfinished, or its answers unread, for that long; 0: never",
)
.default("10s");

/// The proxy.
pub const DC_CLIENT: Command = Command {
    name: "dc_client",
    synopsis: "-server addr [-server addr ...] [options]",
    about: "Takes requests from many short-lived connections and passes them to a server over one \
            connection that stays open; or to several servers, chosen by the session's id.",
    groups: &[
        &Group {
            title: "Where",
            options: &[
                Entry::valued(
                    &["server", "connect"],
                    "addr",
                    "where a server is, up to 32 times (required); with several servers, give all \
                     proxies the same addresses, letter by letter",
                )
                .repeated(),
                Entry::valued(&["listen"], "addr", "where to listen, up to 16 times")
                    .default("UNIX:/tmp/scache")
                    .repeated(),
            ],
        },
        &Group {
            title: "Servers",
            options: &[
                Entry::valued(&["replicas"], "n", "how many servers hold each session: 1 or 2")
                    .default("1"),
                Entry::switch(
                    &["anycast"],
                    "any server will do for any session, as with several dc_gateways: ask the one \
                     with the fewest requests, and the next one if that is lost",
                ),
                Entry::valued(
                    &["retry"],
                    "time",
                    "time between attempts to connect to a server, up to 1h; meanwhile the server \
                     is left out, and without another one requests are refused at once",
                )
                .default("5s"),
                Entry::valued(
                    &["servertimeout"],
                    "time",
                    "give up a server that answers nothing for that long while a request waits for \
                     it, up to 1h, 0: never; its requests go to the next server, or are refused",
                )
                .default("250ms"),
                Entry::valued(
                    &["mintimeout"],
                    "time",
                    "let sessions live at least that long, whatever is asked for",
                )
                .default("0, as long as asked for"),
            ],
        },
        &Group {
            title: "Sealed sessions",
            options: &[
                Entry::valued(
                    &["sealkeys"],
                    "file",
                    "encrypt sessions before they leave for a server, with the first key of this \
                     file, and decrypt them on their way back with any of its keys; SIGHUP reads \
                     the file again",
                ),
                Entry::switch(
                    &["sealkeys-mixed"],
                    "also pass sessions that servers hold unencrypted (else they are not found)",
                ),
                Entry::switch(&["newkey"], "print a new key, one line of such a file, and exit"),
            ],
        },
        &Group {
            title: "Clients",
            options: &[
                MAXCONN,
                IDLE,
                Entry::valued(
                    &["reqtimeout"],
                    "time",
                    "close a client that leaves a request unfinished, or its answers unread, for \
                     that long, and a server that leaves a request unanswered; 0: never",
                )
                .default("10s"),
            ],
        },
        &program::DAEMON,
    ],
    notes: &[ADDRESSES, LISTEN_ADDRESSES, UNITS, END],
    example: "dc_client -server IP:cachehost:9001 -sockgroup www-data -sockperms 660",
};

/// The observer.
pub const DC_SNOOP: Command = Command {
    name: "dc_snoop",
    synopsis: "-listen addr -server addr [options]",
    about: "Passes bytes both ways unchanged and prints a line for each message that goes by: \
            time, connection, direction, operation, uid, id, sizes, status, time it took.",
    groups: &[&Group {
        title: "What it does",
        options: &[
            Entry::valued(&["listen"], "addr", "where clients connect to (required)"),
            Entry::valued(&["server", "connect"], "addr", "where to pass them on to (required)"),
            Entry::switch(
                &["full"],
                "print whole ids, and payloads: they are the secrets of TLS sessions",
            ),
            program::NOSANDBOX,
        ],
    }],
    notes: &[
        ADDRESSES,
        "To listen on all interfaces: IP:port, IPv6:port.",
        "It ends with SIGTERM and SIGINT, and once nobody reads its output any more; the \
         connections through it end then too.",
    ],
    example: "dc_snoop -listen UNIX:snooped -server UNIX:/run/distcache/scache",
};

/// The test and the load.
pub const DC_TEST: Command = Command {
    name: "dc_test",
    synopsis: "[options]",
    about: "Makes sessions, sends random ADD, GET, REMOVE and HAVE for them, one at a time, and \
            stops at the first wrong answer. At the end it prints how long that took, operations a \
            second, and latencies. With -seconds it measures instead: a number of connections ask \
            all the time, every answer is checked, and one line of name=value has the result, times \
            in us.",
    groups: &[
        &Group {
            title: "Where",
            options: &[Entry::valued(&["connect", "server"], "addr", "the server or proxy")
                .default("UNIX:/tmp/scache")],
        },
        &Group {
            title: "Test",
            options: &[
                Entry::valued(&["sessions"], "n", "how many sessions").default("10"),
                Entry::valued(&["datamin"], "bytes", "least bytes of a session, from 5")
                    .default("50"),
                Entry::valued(&["datamax"], "bytes", "most bytes of a session, up to 32697")
                    .default("2100"),
                Entry::valued(
                    &["withcert"],
                    "n",
                    "how many are as large as with a client's certificate",
                )
                .default("0"),
                Entry::valued(&["timeout"], "s", "how long they live, in seconds").default("60"),
                Entry::valued(
                    &["timevar"],
                    "s",
                    "by how much that varies (default: 5, less with a short -timeout)",
                ),
                Entry::valued(
                    &["ops"],
                    "n",
                    "how many requests (default: 10 x sessions x sessions)",
                ),
                Entry::valued(&["progress"], "n", "print a line every n requests")
                    .default("0, no lines"),
                Entry::switch(
                    &["persistent"],
                    "keep one connection, instead of one for every request",
                ),
                Entry::valued(
                    &["seed"],
                    "n",
                    "make the same requests again (default: random, and printed)",
                ),
            ],
        },
        &load::OPTIONS,
    ],
    notes: &[
        "The address: UNIX:/path, UNIX:@name, IP:host:port, IP:[::1]:port.",
        "Times take ms, s, m, h or d, as in 2m; without a unit they are in seconds. Numbers of \
         things take k and M (1000 and 1000000), numbers of bytes K (1024).",
    ],
    example: "dc_test -connect IP:127.0.0.1:9001 -persistent -sessions 100",
};
