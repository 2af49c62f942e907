//! The command lines of the programs: what they take, what they refuse, and what they say then.

use distcache_testing::bytes::{HAVE, have, status};
use distcache_testing::caller::Caller;
use distcache_testing::process::{Dir, Ended, Program, Signal, has_tool, is_root};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A program, and how its options are told.
struct Told {
    name: &'static str,
    path: &'static str,
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
    switches: SWITCHES,
    valued: &[
        ("listen", "IP:127.0.0.1:0"),
        ("sessions", "512"),
        ("maxmem", "3M"),
        ("maxconn", "10"),
        ("idle", "1000"),
        ("reqtimeout", "0"),
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
        ("reqtimeout", "3600001"),
        ("progress", "x"),
        ("sockperms", "888"),
        ("sockperms", "1777"),
    ],
    enough: &["-listen", "IP:127.0.0.1:0"],
};

const CLIENT: Told = Told {
    name: "dc_client",
    path: env!("CARGO_BIN_EXE_dc_client"),
    switches: SWITCHES,
    valued: &[
        ("listen", "IP:127.0.0.1:0"),
        ("server", "IP:127.0.0.1:9001"),
        ("connect", "IP:[::1]:9001"),
        ("retry", "3600000"),
        ("idle", "3600000"),
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
    switches: &["persistent"],
    valued: &[
        ("connect", "IP:127.0.0.1:9001"),
        ("sessions", "10"),
        ("datamin", "50"),
        ("datamax", "2100"),
        ("withcert", "1"),
        ("timeout", "60"),
        ("timevar", "5"),
        ("ops", "7"),
        ("progress", "7"),
        ("seed", "7"),
    ],
    unfit: &[
        ("connect", "IP:9001"),
        ("sessions", "0"),
        ("datamin", "x"),
        ("datamax", "2k"),
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

    /// Each word is refused: the line that says so, and the usage behind it.
    fn refuses(&self, arguments: &[&str], named: &str) -> String {
        let ended = self.run(arguments);
        let context = format!("{} {arguments:?}: {ended:?}", self.name);
        assert!(ended.code == 1 && ended.out.is_empty(), "{context}");
        let (line, usage) = ended.err.split_once('\n').expect(&context);
        assert!(line.starts_with(&format!("{}: ", self.name)) && line.contains(named), "{context}");
        assert!(usage.starts_with(&format!("\nusage: {} ", self.name)), "{context}");
        line.to_owned()
    }
}

#[test]
fn help_is_on_stdout_and_names_every_option() {
    for told in ALL {
        for word in ["-h", "-help", "-?", "--help", "--h", "--?"] {
            let Ended { code, out, err } = told.run(&[word]);
            assert_eq!((code, err.as_str()), (0, ""), "{} {word}", told.name);
            assert!(out.starts_with(&format!("usage: {} ", told.name)), "{out}");
            let valued = told.valued.iter().map(|(option, _)| option);
            for option in told.switches.iter().chain(valued).chain(&["help", "version"]) {
                assert!(out.contains(&format!("-{option}")), "{} -{option}", told.name);
            }
        }
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
                let option = format!("{dashes}{option}");
                let word = format!("{option}={value}");
                let line = told.refuses(&[told.enough, &[&word]].concat(), &option);
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
        for word in ["-colour", "--colour", "-sesions", "stray", "-", "--", "-lisen=IP:9001"] {
            let shown = word.split('=').next().expect("a part");
            told.refuses(&[told.enough, &[word]].concat(), shown);
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
