//! The same loads on different servers in turn.

use super::process::{Figures, HeldFd, Server};
use super::{Fault, Scale};

/// Who is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Racer {
    /// The server without a table.
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

impl Racer {
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

/// One load, and who runs it.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// Its name in tables.
    pub(super) name: String,
    clients: u32,
    depth: u32,
    keys: u32,
    short_lived: bool,
    racers: &'static [Racer],
    /// Who is asked directly is on a UNIX socket, as the proxy is.
    local: bool,
}

const OVER_TCP: &[Racer] = &[Racer::Floor, Racer::Server, Racer::Redis, Racer::Memcached];

impl Shape {
    /// All of them, those on many sessions last.
    pub(super) fn all(scale: &Scale) -> Vec<Self> {
        let tcp = |clients, depth| Self {
            name: format!("{clients} x {depth}"),
            clients,
            depth,
            keys: 10_000,
            short_lived: false,
            racers: OVER_TCP,
            local: false,
        };
        let callers = |clients: u32| Self {
            name: format!("{clients} caller{}", if clients == 1 { "" } else { "s" }),
            short_lived: true,
            racers: &[Racer::Floor, Racer::Proxy],
            local: true,
            ..tcp(clients, 1)
        };
        let kept = |local| Self {
            name: format!("50 kept, to {}", if local { "UNIX" } else { "TCP" }),
            racers: &[Racer::Server, Racer::Proxy],
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

    /// Whether it is one of the proxy's.
    pub(super) fn is_proxy(&self) -> bool {
        self.racers.contains(&Racer::Proxy)
    }

    fn arguments(&self, racer: Racer, seconds: f64, store: bool) -> Vec<String> {
        let mut arguments = vec!["-proto".to_owned(), racer.protocol().to_owned()];
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

/// What all rounds of one shape gave: for each racer, a value a round.
#[derive(Clone, Debug)]
pub(super) struct Race {
    /// The load.
    pub(super) shape: Shape,
    /// Those that took part.
    pub(super) results: Vec<(Racer, Vec<Figures>)>,
}

impl Race {
    /// The median of something about one racer; `None` where it was not there.
    pub(super) fn median(&self, racer: Racer, of: impl Fn(&Figures) -> f64) -> Option<f64> {
        Some(median(self.rounds(racer)?.iter().map(of).collect()))
    }

    /// The median of the ratios in each round.
    pub(super) fn ratio(&self, a: Racer, b: Racer, of: impl Fn(&Figures) -> f64) -> Option<f64> {
        let rounds = self.rounds(a)?.iter().zip(self.rounds(b)?);
        Some(median(rounds.map(|(a, b)| of(a) / of(b)).collect()))
    }

    fn rounds(&self, racer: Racer) -> Option<&[Figures]> {
        let found = self.results.iter().find(|(found, _)| *found == racer)?;
        Some(&found.1)
    }
}

/// The middle one.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// All servers, running.
#[derive(Debug)]
pub(super) struct Field {
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

impl Field {
    /// Starts them all; those of others where they are installed.
    pub(super) fn start(place: &HeldFd, scale: &Scale) -> Result<Self, Fault> {
        let over_tcp = ["-listen", "IP:127.0.0.1:0"];
        let many = scale.many.to_string();
        let behind = place.start("dc_server", &over_tcp)?;
        let at = place.address("proxy");
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
            true => place.start_foreign(program, arguments).map(Some),
            false => Ok(None),
        };
        Ok(Self {
            floor: place.start("distcache-floor", &["IP:127.0.0.1:0"])?,
            local_floor: place.start("distcache-floor", &[&place.address("floor")])?,
            local_server: place.start("dc_server", &["-listen", &place.address("server")])?,
            server: place.start("dc_server", &over_tcp)?,
            large: place.start("dc_server", &[&over_tcp[..], &["-sessions", &many]].concat())?,
            redis: foreign("redis-server", &redis)?,
            memcached: foreign("memcached", &memcached)?,
            proxy: place.start("dc_client", &["-listen", &at, "-server", &behind.address])?,
            _behind: behind,
        })
    }

    /// What `dc_server` takes for as many sessions as a load on many stores.
    pub(super) fn large_resident(&self) -> Option<u64> {
        self.large.resident()
    }

    fn server(&self, shape: &Shape, racer: Racer) -> Option<&Server> {
        Some(match racer {
            Racer::Floor if shape.local => &self.local_floor,
            Racer::Floor => &self.floor,
            Racer::Server if shape.local => &self.local_server,
            Racer::Server if shape.keys > 10_000 => &self.large,
            Racer::Server => &self.server,
            Racer::Redis => self.redis.as_ref()?,
            Racer::Memcached => self.memcached.as_ref()?,
            Racer::Proxy => &self.proxy,
        })
    }

    /// Runs one shape: every round, each racer in turn.
    pub(super) fn race(&self, place: &HeldFd, scale: &Scale, shape: &Shape) -> Result<Race, Fault> {
        let racers = shape.racers.iter().copied();
        let there: Vec<_> =
            racers.filter_map(|racer| Some((racer, self.server(shape, racer)?))).collect();
        for (racer, server) in &there {
            place.load(&server.address, &shape.arguments(*racer, 0.1, true))?;
        }
        let mut results: Vec<_> = there.iter().map(|(racer, _)| (*racer, Vec::new())).collect();
        for _ in 0..scale.rounds {
            for ((racer, server), (_, rounds)) in there.iter().zip(&mut results) {
                let arguments = shape.arguments(*racer, scale.seconds, false);
                let figures = place.load(&server.address, &arguments)?;
                eprintln!("{:<34} {:<22} {figures}", shape.name, racer.name());
                rounds.push(figures);
            }
        }
        Ok(Race { shape: shape.clone(), results })
    }
}

/// Whether a program is installed.
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
            (Racer::Server, rounds([1.0, 10.0, 3.0])),
            (Racer::Floor, rounds([2.0, 10.0, 4.0])),
        ];
        let race = Race { shape, results };
        let rate = |figures: &Figures| figures.rate;
        assert_eq!(race.median(Racer::Server, rate), Some(3.0));
        assert_eq!(race.ratio(Racer::Server, Racer::Floor, rate), Some(0.75));
        assert_eq!(race.ratio(Racer::Server, Racer::Redis, rate), None);
    }
}
