//! The command line as a table: what `main` reads, `-h` prints and the documentation lists.

use distcache_posix::options::table::{Command, Entry, Group};
use distcache_posix::program;

/// The command line.
pub const DC_GATEWAY: Command = Command {
    name: "dc_gateway",
    synopsis: "-engine url [options]",
    about: "Keeps TLS sessions in a Valkey or Redis Cluster, for dc_client, or for anything else \
            that speaks distcache.",
    groups: &[
        &Group {
            title: "Where",
            options: &[
                Entry::valued(
                    &["engine"],
                    "url",
                    "where the sessions are stored (required): redis://host:port,host:port,... for \
                     nodes of a cluster or one server; rediss:// for the same over TLS; \
                     redis-sentinel://host:port,.../name or rediss-sentinel:// for Sentinels",
                ),
                Entry::valued(&["listen"], "addr", "where to listen, up to 16 times")
                    .default("IP:127.0.0.1:9001")
                    .repeated(),
            ],
        },
        &Group {
            title: "Engine",
            options: &[
                Entry::valued(
                    &["credentials"],
                    "file",
                    "lines of 'user NAME' and 'password SECRET' for the engine, 'sentinel-user' and \
                     'sentinel-password' for Sentinels; refused if others can read it",
                ),
                Entry::valued(
                    &["cafile"],
                    "file",
                    "certificates to trust for the engine, as PEM (default: the system's)",
                ),
                Entry::valued(&["tlscert"], "file", "the client certificate for the engine, as PEM, with -tlskey"),
                Entry::valued(&["tlskey"], "file", "its key, as PEM"),
                Entry::valued(
                    &["tlsname"],
                    "name",
                    "the name in the nodes' certificates (default: each node's host)",
                ),
                Entry::valued(
                    &["deadline"],
                    "time",
                    "the longest time of a request, up to 1m; after that the answer is 'server \
                     unreachable'",
                )
                .default("250ms"),
                Entry::valued(&["threads"], "n", "worker threads").default("1"),
                Entry::valued(
                    &["inflight"],
                    "n",
                    "the most requests of a thread in flight, shared equally among the nodes",
                )
                .default("16384"),
                Entry::valued(
                    &["mintimeout"],
                    "time",
                    "let sessions live at least that long, whatever is asked for",
                )
                .default("0, as long as asked for"),
            ],
        },
        &Group {
            title: "Clients",
            options: &[
                Entry::valued(
                    &["overtake"],
                    "time",
                    "let answers pass one that is that late, so that a stopped node does not delay \
                     the answers of others; only for clients that match answers by uid, as dc_client \
                     does",
                )
                .default("0, never"),
                Entry::valued(&["maxconn"], "n", "how many clients at a time; more are refused")
                    .default("4096"),
                Entry::valued(&["idle"], "time", "close a client that asks nothing for that long")
                    .default("0, never"),
                Entry::valued(
                    &["reqtimeout"],
                    "time",
                    "close a client that leaves a request unfinished, or its answers unread, for \
                     that long; 0: never",
                )
                .default("10s"),
            ],
        },
        &program::DAEMON,
    ],
    notes: &[
        "Addresses: UNIX:/path, UNIX:@name, IP:host:port, IP:[::1]:port, IP:port for all \
         interfaces, FD:n; SESSIOND:host:port for stunnel's sessiond, over UDP.",
        "Times take ms, s, m, h or d, as in 250ms or 5s; without a unit they are in milliseconds.",
        "SIGTERM and SIGINT end it in order, once everything received so far is answered.",
    ],
    example: "dc_gateway -listen IP:10.0.0.7:9001 -engine redis://10.0.1.1,10.0.1.2",
};
