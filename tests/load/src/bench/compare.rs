//! Runs the same loads on different servers in turn.

use super::process::{Figures, Server, Setup};
use super::{BenchError, Scale};

/// A server that is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Contender {
    /// The server that stores nothing.
    Floor,
    /// `dc_server`.
    Server,
    /// Redis.
    Redis,
    /// memcached, with one thread.
    Memcached,
    /// `dc_client` and `dc_server`, both on the core of servers.
    Proxy,
}

impl Contender {
    /// Its name in tables.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Floor => "no table",
            Self::Server => "dc_server",
            Self::Redis => "redis",
            Self::Memcached => "memcached",
            Self::Proxy => "dc_client + dc_server",
        }
    }

    const fn protocol(self) -> &'static str {
        match self {
            Self::Floor | Self::Server | Self::Proxy => "dc",
            Self::Redis => "resp",
            Self::Memcached => "mc",
        }
    }
}

/// A load.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// Its name in tables.
    pub(super) name: String,
    clients: u32,
    depth: u32,
    keys: u32,
    short_lived: bool,
    contenders: &'static [Contender],
    /// Whether servers are asked on a UNIX socket, as the proxy is.
    local: bool,
}

const OVER_TCP: &[Contender] =
    &[Contender::Floor, Contender::Server, Contender::Redis, Contender::Memcached];

impl Shape {
    /// Returns all loads, those with many sessions last.
    pub(super) fn all(scale: &Scale) -> Vec<Self> {
        let tcp = |clients, depth| Self {
            name: format!("{clients} x {depth}"),
            clients,
            depth,
            keys: 10_000,
            short_lived: false,
            contenders: OVER_TCP,
            local: false,
        };
        let callers = |clients: u32| Self {
            name: format!("{clients} caller{}", if clients == 1 { "" } else { "s" }),
            short_lived: true,
            contenders: &[Contender::Floor, Contender::Proxy],
            local: true,
            ..tcp(clients, 1)
        };
        let kept = |local| Self {
            name: format!("50 kept, to {}", if local { "UNIX" } else { "TCP" }),
            contenders: &[Contender::Server, Contender::Proxy],
            local,
            ..tcp(50, 1)
        };
        let many = Self {
            name: format!("50 x 16, {}", thousands(scale.many)),
            keys: scale.many,
            ..tcp(50, 16)
        };
        let mut shapes = vec![tcp(50, 1), tcp(1, 64), tcp(50, 16), tcp(500, 1)];
        shapes.extend([callers(1), callers(50), callers(400), kept(true), kept(false), many]);
        shapes
    }

    /// Returns whether the load is for the proxy.
    pub(super) fn is_proxy(&self) -> bool {
        self.contenders.contains(&Contender::Proxy)
    }

    fn arguments(&self, contender: Contender, seconds: f64, store: bool) -> Vec<String> {
        let mut arguments = vec!["-proto".to_owned(), contender.protocol().to_owned()];
        for (name, value) in
            [("-conns", self.clients), ("-depth", self.depth), ("-keys", self.keys)]
        {
            arguments.extend([name.to_owned(), value.to_string()]);
        }
        arguments.extend(["-seconds".to_owned(), seconds.to_string()]);
        arguments.extend(self.short_lived.then(|| "-shortlived".to_owned()));
        arguments.extend((!store).then(|| "-nostore".to_owned()));
        arguments
    }
}

fn thousands(number: u32) -> String {
    match number {
        1_000_000.. => format!("{} M sessions", number / 1_000_000),
        _ => format!("{} k sessions", number / 1000),
    }
}

/// The results of one load: for each server, a value a round.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    /// The load.
    pub(super) shape: Shape,
    /// The servers that were measured.
    pub(super) results: Vec<(Contender, Vec<Figures>)>,
}

impl Comparison {
    /// Returns the median of a value of one server; `None` if it was not measured.
    pub(super) fn median(&self, contender: Contender, of: impl Fn(&Figures) -> f64) -> Option<f64> {
        Some(median(self.rounds(contender)?.iter().map(of).collect()))
    }

    /// Returns the median of the ratios in each round.
    pub(super) fn ratio(
        &self,
        a: Contender,
        b: Contender,
        of: impl Fn(&Figures) -> f64,
    ) -> Option<f64> {
        let rounds = self.rounds(a)?.iter().zip(self.rounds(b)?);
        Some(median(rounds.map(|(a, b)| of(a) / of(b)).collect()))
    }

    fn rounds(&self, contender: Contender) -> Option<&[Figures]> {
        let found = self.results.iter().find(|(found, _)| *found == contender)?;
        Some(&found.1)
    }
}

/// Returns the median.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// All servers, running.
#[derive(Debug)]
pub(super) struct Servers {
    floor: Server,
    local_floor: Server,
    local_server: Server,
    server: Server,
    large: Server,
    redis: Option<Server>,
    memcached: Option<Server>,
    proxy: Server,
    _behind: Server,
}

impl Servers {
    /// Starts them all. Other projects' servers are left out if they are not installed.
    pub(super) fn start(setup: &Setup, scale: &Scale) -> Result<Self, BenchError> {
        let over_tcp = ["-listen", "IP:127.0.0.1:0"];
        let many = scale.many.to_string();
        let behind = setup.start("dc_server", &over_tcp)?;
        let at = setup.address("proxy");
        let redis = |port: u16| {
            let port = port.to_string();
            let all = ["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"];
            all.map(str::to_owned).to_vec()
        };
        let memcached = |port: u16| {
            let port = port.to_string();
            let all = ["-l", "127.0.0.1", "-p", &port, "-t", "1", "-m", "2048", "-c", "4096"];
            [&all[..], &["-u", "nobody"]].concat().iter().map(|word| (*word).to_owned()).collect()
        };
        let foreign = |program: &str, arguments: &dyn Fn(u16) -> Vec<String>| match which(program) {
            true => setup.start_foreign(program, arguments).map(Some),
            false => Ok(None),
        };
        Ok(Self {
            floor: setup.start("distcache-floor", &["IP:127.0.0.1:0"])?,
            local_floor: setup.start("distcache-floor", &[&setup.address("floor")])?,
            local_server: setup.start("dc_server", &["-listen", &setup.address("server")])?,
            server: setup.start("dc_server", &over_tcp)?,
            large: setup.start("dc_server", &[&over_tcp[..], &["-sessions", &many]].concat())?,
            redis: foreign("redis-server", &redis)?,
            memcached: foreign("memcached", &memcached)?,
            proxy: setup.start("dc_client", &["-listen", &at, "-server", &behind.address])?,
            _behind: behind,
        })
    }

    /// Returns the memory that `dc_server` uses for the load with many sessions.
    pub(super) fn large_resident(&self) -> Option<u64> {
        self.large.resident()
    }

    fn server(&self, shape: &Shape, contender: Contender) -> Option<&Server> {
        Some(match contender {
            Contender::Floor if shape.local => &self.local_floor,
            Contender::Floor => &self.floor,
            Contender::Server if shape.local => &self.local_server,
            Contender::Server if shape.keys > 10_000 => &self.large,
            Contender::Server => &self.server,
            Contender::Redis => self.redis.as_ref()?,
            Contender::Memcached => self.memcached.as_ref()?,
            Contender::Proxy => &self.proxy,
        })
    }

    /// Runs one load: every round, each server in turn.
    pub(super) fn compare(
        &self,
        setup: &Setup,
        scale: &Scale,
        shape: &Shape,
    ) -> Result<Comparison, BenchError> {
        let contenders = shape.contenders.iter().copied();
        let there: Vec<_> = contenders
            .filter_map(|contender| Some((contender, self.server(shape, contender)?)))
            .collect();
        for (contender, server) in &there {
            setup.load(&server.address, &shape.arguments(*contender, 0.1, true))?;
        }
        let mut results: Vec<_> =
            there.iter().map(|(contender, _)| (*contender, Vec::new())).collect();
        for _ in 0..scale.rounds {
            for ((contender, server), (_, rounds)) in there.iter().zip(&mut results) {
                let arguments = shape.arguments(*contender, scale.seconds, false);
                let figures = setup.load(&server.address, &arguments)?;
                eprintln!("{:<34} {:<22} {figures}", shape.name, contender.name());
                rounds.push(figures);
            }
        }
        Ok(Comparison { shape: shape.clone(), results })
    }
}

/// Returns whether a program is installed.
pub(super) fn which(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_that_of_rounds_and_not_of_medians() {
        let rounds =
            |rates: [f64; 3]| rates.map(|rate| Figures { rate, ..Figures::default() }).to_vec();
        let shape = Shape::all(&Scale::QUICK).remove(0);
        let results = vec![
            (Contender::Server, rounds([1.0, 10.0, 3.0])),
            (Contender::Floor, rounds([2.0, 10.0, 4.0])),
        ];
        let compare = Comparison { shape, results };
        let rate = |figures: &Figures| figures.rate;
        assert_eq!(compare.median(Contender::Server, rate), Some(3.0));
        assert_eq!(compare.ratio(Contender::Server, Contender::Floor, rate), Some(0.75));
        assert_eq!(compare.ratio(Contender::Server, Contender::Redis, rate), None);
    }
}
