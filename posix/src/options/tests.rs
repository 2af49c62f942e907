use super::*;

fn options<const N: usize>(words: [&str; N]) -> Options {
    Options::new(words.map(Into::into))
}

#[test]
fn one_dash_or_two_with_a_space_or_an_equals_sign_are_the_same() {
    for words in
        [["-listen", "x=1"], ["--listen", "x=1"], ["-listen=x=1", ""], ["--listen=x=1", ""]]
    {
        let mut options = Options::new(words.into_iter().filter(|w| !w.is_empty()).map(Into::into));
        assert_eq!(options.next(), Ok(Some("listen".into())));
        assert_eq!(options.text(), Ok("x=1".into()));
        assert_eq!(options.next(), Ok(None));
    }
}

#[test]
fn help_and_version_have_short_names() {
    for word in ["-h", "-?", "-help", "--help", "--h"] {
        assert_eq!(options([word]).next(), Ok(Some("help".into())), "{word}");
    }
    for word in ["-V", "-version", "--version"] {
        assert_eq!(options([word]).next(), Ok(Some("version".into())), "{word}");
    }
}

#[test]
fn an_argument_that_is_not_an_option_is_named() {
    for word in ["x", "-", "start", ""] {
        let error = options([word]).next().unwrap_err();
        assert_eq!(error.to_string(), format!("unexpected argument '{word}'"));
    }
    assert_eq!(options(["--"]).next(), Ok(None));
    assert!(options(["--", "-x"]).next().is_err());
    let mut unknown = options(["--colour=red"]);
    unknown.next().unwrap();
    assert_eq!(unknown.unknown().to_string(), "unknown option -colour");
}

const COMMAND: Command = Command {
    name: "dc_x",
    synopsis: "",
    about: "",
    groups: &[&table::Group {
        title: "",
        options: &[
            table::Entry::valued(&["server", "connect"], "addr", "").repeated(),
            table::Entry::valued(&["listen"], "addr", "").repeated(),
            table::Entry::valued(&["single"], "addr", ""),
        ],
    }],
    notes: &[],
    example: "",
};

fn of_command<const N: usize>(words: [&str; N]) -> Options {
    Options { command: Some(&COMMAND), ..options(words) }
}

#[test]
fn an_alias_returns_its_option_and_an_unknown_option_is_refused() {
    for word in ["-connect=x", "--server=x", "-server=x"] {
        assert_eq!(of_command([word]).next(), Ok(Some("server".into())));
    }
    for (word, line) in [
        ("-lisen=x", "unknown option -lisen; did you mean -listen?"),
        ("--colour", "unknown option -colour"),
        ("---server", "unknown option --server; did you mean -server?"),
        ("-=x", "unknown option -"),
    ] {
        assert_eq!(of_command([word]).next().unwrap_err().to_string(), line);
    }
}

#[test]
fn a_list_of_addresses_is_refused_with_advice() {
    for (word, line) in [
        ("-server=IP:a:1,IP:b:2", "give -server once for each server, not 'IP:a:1,IP:b:2'"),
        ("-connect=IP:a:1,b:2", "give -connect once for each server, not 'IP:a:1,b:2'"),
        ("-server=UNIX:/a,UNIX:/b", "give -server once for each server, not 'UNIX:/a,UNIX:/b'"),
        ("-listen=IP:1,IP:2", "-listen takes one address, not 'IP:1,IP:2'; give it once for each"),
        ("-single=IP:a:1,b", "-single takes one address, not 'IP:a:1,b'"),
    ] {
        let mut options = of_command([word]);
        options.next().unwrap();
        assert_eq!(options.service_address().unwrap_err().to_string(), line);
    }
    let mut comma = of_command(["-server=UNIX:/a,b"]);
    comma.next().unwrap();
    assert!(comma.service_address().is_ok(), "a path may have a comma");
}

#[test]
fn a_negative_number_is_called_negative() {
    let negative = |low| {
        let mut options = options(["-sessions", "-5", "x"]);
        options.next().unwrap();
        options.count(low..=9).unwrap_err().to_string()
    };
    assert_eq!(negative(1), "-sessions must be positive, not '-5'");
    assert_eq!(negative(0), "-sessions must not be negative, not '-5'");
    let mut options = options(["-sessions", "-daemon"]);
    options.next().unwrap();
    assert_eq!(options.count(1..=9).unwrap_err().to_string(), "-sessions needs a value");
}

#[test]
fn a_time_can_be_a_fraction_of_a_second() {
    let limits = || Duration::from_millis(1)..=Duration::from_secs(86_400);
    for (text, millis) in [
        ("0.1", Some(100)),
        ("10", Some(10_000)),
        ("1.5s", Some(1500)),
        ("250ms", Some(250)),
        ("2m", Some(120_000)),
        ("24h", Some(86_400_000)),
        ("0", None),
        ("25h", None),
        ("nan", None),
        ("inf", None),
        ("1e99", None),
        ("1.5 s", None),
    ] {
        let read = |options: &mut Options| options.duration(limits());
        assert_eq!(given(text, read), millis.map(Duration::from_millis), "{text}");
    }
}

#[test]
fn a_missing_value_is_not_taken_from_the_next_option() {
    for words in [["-pidfile", "-daemon"], ["-pidfile=", "x"], ["-pidfile", ""]] {
        let mut options = options(words);
        options.next().unwrap();
        assert_eq!(options.path().unwrap_err().to_string(), "-pidfile needs a value");
    }
    let mut last = options(["-pidfile"]);
    last.next().unwrap();
    assert!(last.value().is_err());
    let mut odd = options(["-pidfile=-odd"]);
    odd.next().unwrap();
    assert_eq!(odd.path(), Ok("-odd".into()));
}

#[test]
fn a_switch_takes_no_value() {
    let mut options = options(["-daemon=yes", "-x"]);
    options.next().unwrap();
    assert_eq!(options.next().unwrap_err().to_string(), "-daemon takes no value");
}

fn given<T>(value: &str, read: impl FnOnce(&mut Options) -> Result<T, OptionsError>) -> Option<T> {
    let mut options = options(["-x", value]);
    options.next().unwrap();
    match read(&mut options) {
        Ok(value) => Some(value),
        Err(error) => {
            let error = error.to_string();
            assert!(error.starts_with("-x") && error.contains(value), "{error}");
            None
        }
    }
}

#[test]
fn numbers_are_decimal_and_within_their_range() {
    for (text, number) in [
        ("1", Some(1)),
        ("60", Some(60)),
        ("007", Some(7)),
        ("0", None),
        ("61", None),
        ("+1", None),
        ("1x", None),
        ("0x1", None),
        ("99999999999999999999", None),
    ] {
        assert_eq!(given(text, |options| options.number(1..=60)), number, "{text}");
    }
}

#[test]
fn each_kind_of_number_has_its_units_and_error() {
    assert_eq!(given("64k", |options| options.count(1..=65_536)), Some(64_000));
    assert_eq!(given("64M", |options| options.bytes(1..=u64::MAX)), Some(64 << 20));
    assert_eq!(given("5s", |options| options.millis(1..=3_600_000)), Some(5000));
    assert_eq!(given("7d", |options| options.seconds(1..=604_800)), Some(604_800));
    let mut options = options(["-retry", "2h"]);
    options.next().unwrap();
    let error = options.millis(1..=3_600_000).unwrap_err().to_string();
    assert_eq!(error, "-retry needs a time from 1ms to 1h, not '2h'");
}

#[test]
fn modes_are_octal() {
    for (text, mode) in [("660", Some(0o660)), ("0777", Some(0o777)), ("0", Some(0))] {
        assert_eq!(given(text, Options::mode), mode);
    }
    for text in ["1777", "8", "rw", "u+w"] {
        assert_eq!(given(text, Options::mode), None, "{text}");
    }
}

#[test]
fn an_invalid_address_is_an_error_that_names_the_option() {
    assert!(given("IP:9001", Options::listen_address).is_some());
    assert!(given("IP:9001", Options::server_address).is_none());
    assert!(given("IP:localhost:9001", Options::server_address).is_some());
    assert!(given("nonsense", Options::listen_address).is_none());
    assert!(given("SESSIOND:[::1]:1", Options::service_address).is_some());
    assert!(given("SESSIOND:[::1]:1", Options::listen_address).is_none());
    assert!(given("SESSIOND:[::1]:1", Options::server_address).is_none());
}

#[test]
fn a_value_that_is_not_utf_8_can_be_a_path() {
    let odd = || OsString::from_vec(vec![b'a', 0xff]);
    let mut options = Options::new(["-x".into(), odd(), "-x".into(), odd()]);
    options.next().unwrap();
    assert!(options.text().is_err());
    options.next().unwrap();
    assert_eq!(options.path(), Ok(odd().into()));
}
