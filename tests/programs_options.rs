//! The command lines of the programs: what they accept, what they refuse, and their messages.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use distcache_posix::options::table::Command;
use distcache_posix::programs;
use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::process::{Dir, Ended, Program, Signal, has_tool, is_root};
use distcache_testing::raw_client::RawClient;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A program and its options.
struct ProgramOptions {
    name: &'static str,
    path: &'static str,
    command: &'static Command,
    /// Options without a value.
    switches: &'static [&'static str],
    /// Options with a good value.
    good: &'static [(&'static str, &'static str)],
    /// Options with a bad value.
    bad: &'static [(&'static str, &'static str)],
    /// Required options, which are enough to start the program.
    required: &'static [&'static str],
}

const CLIENT_SWITCHES: &[&str] =
    &["anycast", "daemon", "killable", "mlock", "newkey", "nosandbox", "sealkeys-mixed"];

const SERVER: ProgramOptions = ProgramOptions {
    name: "dc_server",
    path: env!("CARGO_BIN_EXE_dc_server"),
    command: &programs::DC_SERVER,
    switches: &["daemon", "killable", "allowcopy", "mlock", "nosandbox"],
    good: &[
        ("listen", "IP:127.0.0.1:0"),
        ("copyfrom", "IP:127.0.0.1:9001"),
        ("copyshare", "IP:127.0.0.1:9002"),
        ("proxyretry", "1m"),
        ("sessions", "64k"),
        ("maxmem", "2GB"),
        ("maxconn", "10"),
        ("idle", "1m"),
        ("reqtimeout", "0"),
        ("handover", "/nowhere/door"),
        ("maxtimeout", "7d"),
        ("mintimeout", "7d"),
        ("state", "/nowhere"),
        ("statewrite", "1m"),
        ("sealkeys", "/nowhere"),
        ("progress", "1"),
        ("user", "nobody"),
        ("allowuid", "nobody"),
        ("allowgid", "12345"),
        ("sockowner", "nobody"),
        ("sockgroup", "0"),
        ("sockperms", "660"),
        ("pidfile", "/nowhere"),
    ],
    bad: &[
        ("listen", "9001"),
        ("listen", "IP:127.0.0.1:65536"),
        ("listen", "UNIX:"),
        ("copyfrom", "IP:9001"),
        ("copyshare", "nonsense"),
        ("proxyretry", "2h"),
        ("sessions", "0"),
        ("sessions", "16777217"),
        ("sessions", "many"),
        ("maxmem", "3X"),
        ("maxmem", "0"),
        ("maxconn", "0"),
        ("idle", "3600001"),
        ("idle", "61m"),
        ("reqtimeout", "3600001"),
        ("maxtimeout", "8d"),
        ("mintimeout", "8d"),
        ("statewrite", "0"),
        ("statewrite", "86401"),
        ("progress", "x"),
        ("sockperms", "888"),
        ("sockperms", "1777"),
        ("allowuid", "no-such-user"),
        ("allowgid", "4294967295"),
    ],
    required: &["-listen", "IP:127.0.0.1:0"],
};

const CLIENT: ProgramOptions = ProgramOptions {
    name: "dc_client",
    path: env!("CARGO_BIN_EXE_dc_client"),
    command: &programs::DC_CLIENT,
    switches: CLIENT_SWITCHES,
    good: &[
        ("listen", "IP:127.0.0.1:0"),
        ("server", "IP:127.0.0.1:9001"),
        ("connect", "IP:[::1]:9001"),
        ("retry", "5s"),
        ("idle", "3600000"),
        ("mintimeout", "300000"),
        ("replicas", "1"),
        ("servertimeout", "250ms"),
        ("sealkeys", "/nowhere"),
        ("maxconn", "10"),
        ("reqtimeout", "0"),
        ("user", "nobody"),
        ("allowuid", "nobody"),
        ("allowgid", "12345"),
        ("sockowner", "nobody"),
        ("sockgroup", "0"),
        ("sockperms", "660"),
        ("pidfile", "/nowhere"),
    ],
    bad: &[
        ("listen", "nonsense"),
        ("server", "IP:9001"),
        ("connect", "IP:host:0x"),
        ("retry", "0"),
        ("retry", "3600001"),
        ("retry", "5x"),
        ("replicas", "3"),
        ("servertimeout", "2h"),
        ("idle", "3600001"),
        ("idle", "-1"),
        ("maxconn", "0"),
        ("sockperms", "rw"),
    ],
    required: &["-listen", "IP:127.0.0.1:0", "-server", "IP:127.0.0.1:1"],
};

const SNOOP: ProgramOptions = ProgramOptions {
    name: "dc_snoop",
    path: env!("CARGO_BIN_EXE_dc_snoop"),
    command: &programs::DC_SNOOP,
    switches: &["full", "nosandbox"],
    good: &[
        ("listen", "IP:127.0.0.1:0"),
        ("server", "IP:127.0.0.1:9001"),
        ("connect", "UNIX:@name"),
    ],
    bad: &[("listen", "IP:"), ("server", "IP:9001"), ("connect", "FD:x")],
    required: &["-listen", "IP:127.0.0.1:0", "-server", "IP:127.0.0.1:1"],
};

const TEST: ProgramOptions = ProgramOptions {
    name: "dc_test",
    path: env!("CARGO_BIN_EXE_dc_test"),
    command: &programs::DC_TEST,
    switches: &["persistent", "shortlived", "nostore"],
    good: &[
        ("connect", "IP:127.0.0.1:9001"),
        ("server", "IP:127.0.0.1:9001"),
        ("sessions", "10"),
        ("datamin", "50"),
        ("datamax", "2100"),
        ("withcert", "1"),
        ("timeout", "60"),
        ("timevar", "5"),
        ("ops", "7"),
        ("progress", "7"),
        ("seed", "7"),
        ("seconds", "250ms"),
        ("conns", "1k"),
        ("depth", "1"),
        ("keys", "1M"),
        ("idlen", "8"),
        ("datalen", "1K"),
        ("get", "90"),
    ],
    bad: &[
        ("connect", "IP:9001"),
        ("sessions", "0"),
        ("datamin", "x"),
        ("datamax", "2x"),
        ("timeout", "60ms"),
        ("timeout", "604801"),
        ("seed", "seven"),
    ],
    required: &["-connect", "IP:127.0.0.1:1"],
};

const ALL: [ProgramOptions; 4] = [SERVER, CLIENT, SNOOP, TEST];

impl ProgramOptions {
    fn run(&self, arguments: &[&str]) -> Ended {
        Program::run(self.path, arguments)
    }

    /// Checks that arguments are refused with one line that says why, and where to look.
    fn refuses(&self, arguments: &[&str], named: &str) -> String {
        let ended = self.run(arguments);
        let context = format!("{} {arguments:?}: {ended:?}", self.name);
        assert!(ended.code == 1 && ended.out.is_empty(), "{context}");
        let (line, rest) = ended.err.split_once('\n').expect(&context);
        assert!(line.starts_with(&format!("{}: ", self.name)) && line.contains(named), "{context}");
        assert_eq!(rest, "", "{context}");
        let line = line.strip_suffix(&format!("see {} -h", self.name)).map(|line| (line, "; "));
        let line = line.or_else(|| {
            let (line, _) = ended.err.split_once(&format!(" See {} -h\n", self.name))?;
            Some((line, ""))
        });
        let (line, end) = line.expect(&context);
        line.strip_suffix(end).expect(&context).to_owned()
    }
}

#[test]
fn help_is_on_stdout_and_names_every_option() {
    for options in ALL {
        for word in ["-h", "-help", "-?", "--help", "--h", "--?"] {
            let Ended { code, out, err } = options.run(&[word]);
            assert_eq!((code, err.as_str()), (0, ""), "{} {word}", options.name);
            assert!(out.starts_with(&format!("usage: {} ", options.name)), "{out}");
            assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
            let example = out.lines().last().expect("an example");
            assert!(example.starts_with(&format!("example: {} -", options.name)), "{out}");
            assert_eq!(out, options.command.to_string());
        }
    }
}

#[test]
fn the_options_in_help_are_those_tested_here() {
    for options in ALL {
        let good = options.good.iter().map(|(option, _)| *option);
        let common = ["help", "h", "?", "version", "V"];
        let tried: BTreeSet<_> =
            options.switches.iter().copied().chain(good).chain(common).collect();
        let entries: Vec<_> = options.command.options().collect();
        let listed: Vec<_> = entries.iter().flat_map(|entry| entry.names).copied().collect();
        assert_eq!(BTreeSet::from_iter(listed.iter().copied()), tried, "{}", options.name);
        assert_eq!(listed.len(), tried.len(), "{}: a name stands for two options", options.name);
        for entry in entries {
            let is_switch =
                options.switches.contains(&entry.name()) || common.contains(&entry.name());
            assert_eq!(entry.value.is_none(), is_switch, "{} -{}", options.name, entry.name());
        }
    }
}

/// The options in the first cells of tables, by the heading above them.
fn documented(text: &str) -> Vec<(&str, BTreeSet<&str>)> {
    let mut sections = Vec::new();
    for section in text.split("\n## ") {
        let (heading, body) = section.split_once('\n').unwrap_or((section, ""));
        let cells = body.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
        // The even parts are outside of the backquotes.
        let code = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
        let names = code.filter_map(|word| word.strip_prefix('-')?.split(' ').next());
        sections.push((heading, names.collect()));
    }
    sections
}

#[test]
fn the_options_in_help_are_those_of_the_documentation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/programs.md");
    let text = fs::read_to_string(path).expect("docs/programs.md");
    let sections = documented(&text);
    let of = |heading: &str| {
        let found = sections.iter().find(|(found, _)| *found == heading);
        found.map(|(_, names)| names.clone()).expect(heading)
    };
    for ProgramOptions { name, command, .. } in ALL {
        let mut expected: BTreeSet<_> = command.options().flat_map(|entry| entry.names).collect();
        for common in ["help", "h", "?", "version", "V"] {
            assert!(expected.remove(&common) && text.contains(&format!("`-{common}`")), "{common}");
        }
        let mut written = of(name);
        if ["dc_server", "dc_client"].contains(&name) {
            written.extend(of("Daemons"));
        }
        assert_eq!(written, expected.into_iter().copied().collect(), "{name}");
    }
}

#[test]
fn the_example_in_help_can_be_followed() {
    for options in ALL {
        let words: Vec<_> =
            options.command.example.split(' ').skip(1).chain(["-version"]).collect();
        let ended = options.run(&words);
        assert_eq!(ended.code, 0, "{}: {}", options.command.example, ended.err);
    }
}

#[test]
fn the_version_is_on_stdout() {
    for options in ALL {
        for word in ["-V", "-version", "--version", "--V"] {
            let out = format!("{} {VERSION}\n", options.name);
            let ended = Ended { code: 0, out, err: String::new() };
            assert_eq!(options.run(&[word]), ended, "{} {word}", options.name);
        }
    }
}

#[test]
fn every_option_is_accepted_in_all_its_forms() {
    for options in ALL {
        // The first mistake ends a program, so it reports the required value at the end only if it
        // accepted everything before.
        let mut words = Vec::new();
        for (option, value) in options.good {
            let forms =
                [vec![format!("-{option}"), value.to_string()], vec![format!("-{option}={value}")]];
            words.extend(forms.iter().flatten().cloned());
            words.extend(forms.iter().flat_map(|form| {
                form.iter().map(|word| match word.starts_with('-') {
                    true => format!("-{word}"),
                    false => word.clone(),
                })
            }));
        }
        // This one does its work and ends, as -version does.
        for switch in options.switches.iter().filter(|switch| **switch != "newkey") {
            words.extend([format!("-{switch}"), format!("--{switch}")]);
        }
        words.push("-version".to_owned());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ended = options.run(&words);
        assert_eq!(ended.code, 0, "{}: {}", options.name, ended.err);
        assert_eq!(ended.out, format!("{} {VERSION}\n", options.name));
    }
}

#[test]
fn a_bad_value_is_reported_with_its_option() {
    for options in ALL {
        for (option, value) in options.bad {
            for dashes in ["-", "--"] {
                let word = format!("{dashes}{option}={value}");
                let named = format!("-{option}");
                let line = options.refuses(&[options.required, &[&word]].concat(), &named);
                assert!(
                    value.is_empty() || line.contains(value.trim_start_matches("UNIX:")),
                    "{line}"
                );
            }
        }
    }
}

#[test]
fn a_missing_value_is_reported_with_its_option() {
    for options in ALL {
        for (option, _) in options.good {
            let option = format!("-{option}");
            for arguments in [vec![option.as_str()], vec![&option, "-help"], vec![&option, ""]] {
                let line = options.refuses(&[options.required, &arguments].concat(), &option);
                assert!(line.ends_with(" needs a value"), "{line}");
            }
        }
    }
}

#[test]
fn an_unknown_option_is_reported() {
    for options in ALL {
        for (word, why) in [
            ("-colour", "unknown option -colour"),
            ("--colour", "unknown option -colour"),
            ("--", "unexpected argument 'after'"),
            ("start", "unexpected argument 'start'"),
            ("-", "unexpected argument '-'"),
        ] {
            let line = options.refuses(&[options.required, &[word, "after"]].concat(), "");
            assert_eq!(line, format!("{}: {why}", options.name));
        }
        let switch = format!("-{}=yes", options.switches[0]);
        let line =
            options.refuses(&[&[switch.as_str()], options.required].concat(), options.switches[0]);
        assert!(line.ends_with("takes no value"), "{line}");
    }
}

#[test]
fn a_missing_required_option_is_reported() {
    let line = CLIENT.refuses(&[], "-server is missing");
    assert!(line.contains("say where"), "{line}");
    SNOOP.refuses(&[], "-listen is missing");
    SNOOP.refuses(&["-listen", "IP:127.0.0.1:0"], "-server is missing");
    SNOOP.refuses(&["-server", "IP:127.0.0.1:1"], "-listen is missing");
}

#[test]
fn conflicting_options_are_reported() {
    for (arguments, named) in [
        (["-datamin", "100", "-datamax", "99"], "-datamax"),
        (["-datamax", "32698", "-sessions", "1"], "-datamax"),
        (["-sessions", "1", "-withcert", "2"], "-withcert"),
        (["-timeout", "5", "-timevar", "5"], "-timevar"),
    ] {
        TEST.refuses(&[TEST.required, &arguments].concat(), named);
    }
}

#[test]
fn a_host_without_an_address_is_reported() {
    for (options, arguments) in [
        (SERVER, ["-listen", "IP:host..invalid:0", "-killable"].as_slice()),
        (SNOOP, &["-listen", "IP:127.0.0.1:0", "-server", "IP:host..invalid:9001"]),
    ] {
        let ended = options.run(arguments);
        assert_eq!((ended.code, ended.out.as_str()), (1, ""));
        assert!(ended.err.contains("host..invalid") && ended.err.lines().count() == 1, "{ended:?}");
    }
}

#[test]
fn a_server_without_options_listens_on_port_9001_of_this_machine() {
    if !(is_root() && has_tool("unshare") && has_tool("nsenter") && has_tool("ip")) {
        return;
    }
    // The port may be in use here; in a new network namespace it is not.
    let alone = ["-n", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\"", SERVER.path];
    let server = Program::start("unshare", &alone);
    assert_eq!(server.address(), "IP:127.0.0.1:9001");
    let dir = Dir::new();
    let (pid, listen) = (server.pid().to_string(), dir.address("s"));
    let inside =
        ["-n", "-t", &pid, CLIENT.path, "-server", "IP:127.0.0.1:9001", "-listen", &listen];
    let client = Program::start("nsenter", &inside);
    assert_eq!(client.address(), listen);
    client.err.wait_for("connected to IP:127.0.0.1:9001");
    assert_eq!(RawClient::connect(&listen).ask(&have(1, b"id")), status(1, HAVE, 1));
    assert_eq!(client.end(Signal::TERM).code, 0);
    assert_eq!(server.end(Signal::INT).code, 0);
}
