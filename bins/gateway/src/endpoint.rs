//! The location of the engine, as `-engine` gives it.
//!
//! | value | meaning |
//! |---|---|
//! | `redis://host:port,host:port,...` | nodes of a cluster, or one server |
//! | `rediss://host:port,...` | the same over TLS |
//! | `redis-sentinel://host:port,.../name` | Sentinels that know the master `name` |
//! | `rediss-sentinel://host:port,.../name` | the same over TLS |

use std::fmt;

/// The default port of an engine.
const PORT: u16 = 6379;
/// The default port of a Sentinel.
const SENTINEL_PORT: u16 = 26_379;

/// A host and a port.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HostPort {
    /// A name or a numeric address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The location of the engine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// The nodes or Sentinels to ask first: 1 or more.
    pub seeds: Vec<HostPort>,
    /// Whether connections use TLS.
    pub tls: bool,
    /// The master's name, if `seeds` are Sentinels.
    pub sentinel: Option<String>,
}

impl Endpoint {
    /// Parses the value of `-engine`.
    ///
    /// # Errors
    /// The reason, which continues a sentence that begins with the option's name. Quotes no password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| {
            format!(
                "needs redis://, rediss://, redis-sentinel:// or rediss-sentinel://, not '{text}'"
            )
        })?;
        let (tls, sentinel) = match scheme {
            "redis" => (false, false),
            "rediss" => (true, false),
            "redis-sentinel" => (false, true),
            "rediss-sentinel" => (true, true),
            _ => return Err(format!("does not support '{scheme}://'")),
        };
        if rest.contains('@') {
            return Err(
                "takes no user and password: put them in a file, and name it with -credentials"
                    .into(),
            );
        }
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let sentinel = match (sentinel, path) {
            (false, "") => None,
            (false, _) => {
                return Err(format!("takes no database: sessions are in database 0, not '{path}'"));
            }
            (true, "") => {
                return Err("needs the master's name: redis-sentinel://host:port/name".into());
            }
            (true, name) => Some(name.to_owned()),
        };
        let port = if sentinel.is_some() { SENTINEL_PORT } else { PORT };
        let seeds =
            hosts.split(',').map(|host| parse_host_port(host, port)).collect::<Result<_, _>>()?;
        Ok(Self { seeds, tls, sentinel })
    }
}

/// Parses `host`, `host:port`, `[v6]` or `[v6]:port`.
fn parse_host_port(text: &str, default: u16) -> Result<HostPort, String> {
    let invalid = || format!("has no host and port in '{text}'");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(invalid)?;
            (host, port.strip_prefix(':'))
        }
        None if text.matches(':').count() > 1 => {
            return Err(format!(
                "needs [] around an IPv6 address, as in [::1]:{default}, not '{text}'"
            ));
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map_or(Some(default), |port| port.parse().ok().filter(|&port| port != 0));
    match port {
        Some(port) if !host.is_empty() => Ok(HostPort { host: host.to_owned(), port }),
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Vec<String>, bool, Option<String>), String> {
        let Endpoint { seeds, tls, sentinel } = Endpoint::parse(text)?;
        Ok((seeds.iter().map(ToString::to_string).collect(), tls, sentinel))
    }

    #[test]
    fn an_engine_is_given_as_a_url() {
        let seeds = |seeds: &[&str]| seeds.iter().map(ToString::to_string).collect::<Vec<_>>();
        let cases = [
            ("redis://a:1,b:2,[::1]:3", (seeds(&["a:1", "b:2", "[::1]:3"]), false, None)),
            ("rediss://a", (seeds(&["a:6379"]), true, None)),
            ("redis://a/", (seeds(&["a:6379"]), false, None)),
            ("redis-sentinel://a,b:2/m", (seeds(&["a:26379", "b:2"]), false, Some("m".into()))),
            ("rediss-sentinel://[::1]/m", (seeds(&["[::1]:26379"]), true, Some("m".into()))),
        ];
        for (text, endpoint) in cases {
            assert_eq!(parse(text), Ok(endpoint), "{text}");
        }
    }

    #[test]
    fn a_url_that_is_not_an_engine_is_refused_with_a_reason() {
        let cases = [
            ("a:1", "needs redis://"),
            ("http://a:1", "does not support"),
            ("redis://me:secret@a:1", "-credentials"),
            ("redis://a:1/2", "database 0"),
            ("redis-sentinel://a:1", "master's name"),
            ("redis://", "no host"),
            ("redis://a:1,", "no host"),
            ("redis://a:0", "no host"),
            ("redis://a:x", "no host"),
            ("redis://::1", "[]"),
            ("redis://[::1", "no host"),
        ];
        for (text, why) in cases {
            let error = parse(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains("secret"), "no password is quoted");
        }
    }
}
