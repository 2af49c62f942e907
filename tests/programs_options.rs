//! The command lines of the programs: what they take, what they refuse, and what they say then.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use distcache_posix::options::table::Command;
use distcache_posix::programs;
use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::caller::Caller;
use distcache_testing::process::{Dir, Ended, Program, Signal, has_tool, is_root};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A program, and how its options are told.
struct Told {
    name: &'static str,
    path: &'static str,
    command: &'static Command,
    /// Without a value.
    switches: &'static [&'static str],
    /// With a value that will do.
    valued: &'static [(&'static str, &'static str)],
    /// With a value that will not do.
    unfit: &'static [(&'static str, &'static str)],
    /// What is enough to make the program start, were it not for the option in question.
    enough: &'static [&'static str],
}

const SWITCHES: &[&str] = &["daemon", "killable"];

const SERVER: Told = Told {
    name: "dc_server",
    path: env!("CARGO_BIN_EXE_dc_server"),
    command: &programs::DC_SERVER,
    switches: SWITCHES,
    valued: &[
        ("listen", "IP:127.0.0.1:0"),
        ("sessions", "64k"),
        ("maxmem", "2GB"),
        ("maxconn", "10"),
        ("idle", "1m"),
        ("reqtimeout", "0"),
        ("maxtimeout", "7d"),
        ("mintimeout", "7d"),
        ("progress", "1"),
        ("user", "nobody"),
        ("sockowner", "nobody"),
        ("sockgroup", "0"),
        ("sockperms", "660"),
        ("pidfile", "/nowhere"),
    ],
    unfit: &[
        ("listen", "9001"),
        ("listen", "IP:127.0.0.1:65536"),
        ("listen", "UNIX:"),
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
        ("progress", "x"),
        ("sockperms", "888"),
        ("sockperms", "1777"),
    ],
    enough: &["-listen", "IP:127.0.0.1:0"],
};

const CLIENT: Told = Told {
    name: "dc_client",
    path: env!("CARGO_BIN_EXE_dc_client"),
    command: &programs::DC_CLIENT,
    switches: &["anycast", "daemon", "killable"],
    valued: &[
        ("listen", "IP:127.0.0.1:0"),
        ("server", "IP:127.0.0.1:9001"),
        ("connect", "IP:[::1]:9001"),
        ("retry", "5s"),
        ("idle", "3600000"),
        ("mintimeout", "300000"),
        ("replicas", "1"),
        ("servertimeout", "250ms"),
        ("maxconn", "10"),
        ("reqtimeout", "0"),
        ("user", "nobody"),
        ("sockowner", "nobody"),
        ("sockgroup", "0"),
        ("sockperms", "660"),
        ("pidfile", "/nowhere"),
    ],
    unfit: &[
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
    enough: &["-listen", "IP:127.0.0.1:0", "-server", "IP:127.0.0.1:1"],
};

const SNOOP: Told = Told {
    name: "dc_snoop",
    path: env!("CARGO_BIN_EXE_dc_snoop"),
    command: &programs::DC_SNOOP,
    switches: &["full"],
    valued: &[
        ("listen", "IP:127.0.0.1:0"),
        ("server", "IP:127.0.0.1:9001"),
        ("connect", "UNIX:@name"),
    ],
    unfit: &[("listen", "IP:"), ("server", "IP:9001"), ("connect", "FD:x")],
    enough: &["-listen", "IP:127.0.0.1:0", "-server", "IP:127.0.0.1:1"],
};

const TEST: Told = Told {
    name: "dc_test",
    path: env!("CARGO_BIN_EXE_dc_test"),
    command: &programs::DC_TEST,
    switches: &["persistent", "shortlived", "nostore"],
    valued: &[
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
        ("clients", "1k"),
        ("depth", "1"),
        ("keys", "1M"),
        ("idlen", "8"),
        ("datalen", "1K"),
        ("get", "90"),
    ],
    unfit: &[
        ("connect", "IP:9001"),
        ("sessions", "0"),
        ("datamin", "x"),
        ("datamax", "2x"),
        ("timeout", "60ms"),
        ("timeout", "604801"),
        ("seed", "seven"),
    ],
    enough: &["-connect", "IP:127.0.0.1:1"],
};

const ALL: [Told; 4] = [SERVER, CLIENT, SNOOP, TEST];

impl Told {
    fn run(&self, arguments: &[&str]) -> Ended {
        Program::run(self.path, arguments)
    }

    /// Arguments are refused with one line that says why, and where to look.
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
    for told in ALL {
        for word in ["-h", "-help", "-?", "--help", "--h", "--?"] {
            let Ended { code, out, err } = told.run(&[word]);
            assert_eq!((code, err.as_str()), (0, ""), "{} {word}", told.name);
            assert!(out.starts_with(&format!("usage: {} ", told.name)), "{out}");
            assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
            let example = out.lines().last().expect("an example");
            assert!(example.starts_with(&format!("example: {} -", told.name)), "{out}");
            assert_eq!(out, told.command.to_string());
        }
    }
}

#[test]
fn the_options_in_help_are_those_that_are_tried_here() {
    for told in ALL {
        let valued = told.valued.iter().map(|(option, _)| *option);
        let common = ["help", "h", "?", "version", "V"];
        let tried: BTreeSet<_> =
            told.switches.iter().copied().chain(valued).chain(common).collect();
        let entries: Vec<_> = told.command.options().collect();
        let listed: Vec<_> = entries.iter().flat_map(|entry| entry.names).copied().collect();
        assert_eq!(BTreeSet::from_iter(listed.iter().copied()), tried, "{}", told.name);
        assert_eq!(listed.len(), tried.len(), "{}: a name stands for two options", told.name);
        for entry in entries {
            let is_switch = told.switches.contains(&entry.name()) || common.contains(&entry.name());
            assert_eq!(entry.value.is_none(), is_switch, "{} -{}", told.name, entry.name());
        }
    }
}

#[test]
fn every_option_is_in_the_documents() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).expect("our documents");
    let docs = docs.map(|entry| entry.expect("an entry").path());
    let docs = docs.filter(|path| path.extension().is_some_and(|kind| kind == "md"));
    let texts = docs.chain([root.join("README.md")]).map(fs::read_to_string);
    let texts: Vec<String> = texts.map(|text| text.expect("a document")).collect();
    for command in programs::ALL {
        for name in command.options().flat_map(|entry| entry.names) {
            let written = [format!("`-{name}`"), format!("`-{name} ")];
            let there = |text: &String| written.iter().any(|written| text.contains(written));
            assert!(texts.iter().any(there), "{} -{name} is in no document", command.name);
        }
    }
}

#[test]
fn the_example_in_help_can_be_followed() {
    for told in ALL {
        let words: Vec<_> = told.command.example.split(' ').skip(1).chain(["-version"]).collect();
        let ended = told.run(&words);
        assert_eq!(ended.code, 0, "{}: {}", told.command.example, ended.err);
    }
}

#[test]
fn the_version_is_on_stdout() {
    for told in ALL {
        for word in ["-V", "-version", "--version", "--V"] {
            let out = format!("{} {VERSION}\n", told.name);
            let ended = Ended { code: 0, out, err: String::new() };
            assert_eq!(told.run(&[word]), ended, "{} {word}", told.name);
        }
    }
}

#[test]
fn every_option_is_taken_in_all_its_forms() {
    for told in ALL {
        // The first thing that can't be followed ends a program; so what it is asked for at the
        // end comes out only where it could follow everything before.
        let mut words = Vec::new();
        for (option, value) in told.valued {
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
        for switch in told.switches {
            words.extend([format!("-{switch}"), format!("--{switch}")]);
        }
        words.push("-version".to_owned());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ended = told.run(&words);
        assert_eq!(ended.code, 0, "{}: {}", told.name, ended.err);
        assert_eq!(ended.out, format!("{} {VERSION}\n", told.name));
    }
}

#[test]
fn an_unfit_value_is_named_with_its_option() {
    for told in ALL {
        for (option, value) in told.unfit {
            for dashes in ["-", "--"] {
                let word = format!("{dashes}{option}={value}");
                let named = format!("-{option}");
                let line = told.refuses(&[told.enough, &[&word]].concat(), &named);
                assert!(
                    value.is_empty() || line.contains(value.trim_start_matches("UNIX:")),
                    "{line}"
                );
            }
        }
    }
}

#[test]
fn a_missing_value_is_named_with_its_option() {
    for told in ALL {
        for (option, _) in told.valued {
            let option = format!("-{option}");
            for arguments in [vec![option.as_str()], vec![&option, "-help"], vec![&option, ""]] {
                let line = told.refuses(&[told.enough, &arguments].concat(), &option);
                assert!(line.ends_with(" needs a value"), "{line}");
            }
        }
    }
}

#[test]
fn what_is_no_option_is_named() {
    for told in ALL {
        for (word, why) in [
            ("-colour", "unknown option -colour"),
            ("--colour", "unknown option -colour"),
            ("--", "unexpected argument 'after'"),
            ("start", "unexpected argument 'start'"),
            ("-", "unexpected argument '-'"),
        ] {
            let line = told.refuses(&[told.enough, &[word, "after"]].concat(), "");
            assert_eq!(line, format!("{}: {why}", told.name));
        }
        let switch = format!("-{}=yes", told.switches[0]);
        let line = told.refuses(&[&[switch.as_str()], told.enough].concat(), told.switches[0]);
        assert!(line.ends_with("takes no value"), "{line}");
    }
}

#[test]
fn what_cannot_be_done_without_is_asked_for() {
    let line = CLIENT.refuses(&[], "-server is missing");
    assert!(line.contains("say where"), "{line}");
    SNOOP.refuses(&[], "-listen is missing");
    SNOOP.refuses(&["-listen", "IP:127.0.0.1:0"], "-server is missing");
    SNOOP.refuses(&["-server", "IP:127.0.0.1:1"], "-listen is missing");
}

#[test]
fn options_that_do_not_fit_together_are_named() {
    for (arguments, named) in [
        (["-datamin", "100", "-datamax", "99"], "-datamax"),
        (["-datamax", "32698", "-sessions", "1"], "-datamax"),
        (["-sessions", "1", "-withcert", "2"], "-withcert"),
        (["-timeout", "5", "-timevar", "5"], "-timevar"),
    ] {
        TEST.refuses(&[TEST.enough, &arguments].concat(), named);
    }
}

#[test]
fn a_host_that_has_no_address_is_named() {
    for (told, arguments) in [
        (SERVER, ["-listen", "IP:host..invalid:0", "-killable"].as_slice()),
        (SNOOP, &["-listen", "IP:127.0.0.1:0", "-server", "IP:host..invalid:9001"]),
    ] {
        let ended = told.run(arguments);
        assert_eq!((ended.code, ended.out.as_str()), (1, ""));
        assert!(ended.err.contains("host..invalid") && ended.err.lines().count() == 1, "{ended:?}");
    }
}

#[test]
fn a_server_that_is_told_nothing_listens_on_port_9001_of_this_machine() {
    if !(is_root() && has_tool("unshare") && has_tool("nsenter") && has_tool("ip")) {
        return;
    }
    // The port may be taken here; in a network of its own it is not.
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
    assert_eq!(Caller::to(&listen).ask(&have(1, b"id")), status(1, HAVE, 1));
    assert_eq!(client.end(Signal::TERM).code, 0);
    assert_eq!(server.end(Signal::INT).code, 0);
}
