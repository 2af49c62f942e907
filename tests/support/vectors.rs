//! The reference vectors: requests, and the answers of the original, byte for byte.
//!
//! Their order matters: a line may find what an earlier one has stored. Each has a connection of
//! its own.

use std::sync::OnceLock;

const TABLE: &str = include_str!("../vectors/reference.tsv");

/// One request, and its outcome.
#[derive(Clone, Debug)]
pub struct Line {
    /// What the line tests.
    pub name: &'static str,
    /// What the client sends.
    pub request: Vec<u8>,
    /// What it must get.
    pub outcome: Outcome,
}

/// What a client receives on its connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// Nothing, or whole answers.
    pub reply: Vec<u8>,
    /// Whether its connection is closed then.
    pub close: bool,
}

/// Something that answers requests.
pub trait Responder {
    /// Sends a request on a new connection, and returns the outcome. If that takes real time,
    /// `expected` says what to wait for.
    fn exchange(&mut self, request: &[u8], expected: &Outcome) -> Outcome;
}

/// Sends each line on its own, and compares.
///
/// # Panics
/// If an outcome is not that of the line.
pub fn replay(responder: &mut impl Responder, lines: &[Line]) {
    for line in lines {
        check(responder, line.name, &line.request, &line.outcome);
    }
}

/// Sends each line, from number `first` on, in one piece with the next one, and compares.
///
/// # Panics
/// If an outcome is not that of the two lines.
pub fn replay_merged(responder: &mut impl Responder, lines: &[Line], first: usize) {
    let (alone, pairs) = lines.split_at(first);
    replay(responder, alone);
    for pair in pairs.chunks(2) {
        let [one, two] = pair else {
            return replay(responder, pair);
        };
        // No request can follow part of one.
        if one.outcome.reply.is_empty() && !one.outcome.close {
            replay(responder, pair);
            continue;
        }
        let request = [&one.request[..], &two.request].concat();
        let mut both = one.outcome.clone();
        if !both.close {
            both.reply.extend(&two.outcome.reply);
            both.close = two.outcome.close;
        }
        check(responder, &format!("{} and {}", one.name, two.name), &request, &both);
        if one.outcome.close {
            replay(responder, &pair[1..]);
        }
    }
}

fn check(responder: &mut impl Responder, name: &str, request: &[u8], expected: &Outcome) {
    let outcome = responder.exchange(request, expected);
    assert!(outcome == *expected, "{name}: got {outcome:02x?}");
}

/// Returns all lines in order.
///
/// # Panics
/// If the table is malformed.
pub fn lines() -> &'static [Line] {
    static LINES: OnceLock<Vec<Line>> = OnceLock::new();
    let texts = TABLE.lines().filter(|text| !text.starts_with('#') && !text.is_empty());
    LINES.get_or_init(|| texts.map(line).collect())
}

fn line(text: &'static str) -> Line {
    let mut fields = text.split('\t');
    let mut field = || fields.next().unwrap_or_else(|| panic!("three fields in {text:.60}"));
    let (name, request, outcome) = (field(), hex(field()), field());
    let (reply, close) = match outcome {
        "silence" => (Vec::new(), false),
        "close" => (Vec::new(), true),
        _ => match outcome.strip_suffix("+close") {
            Some(reply) => (hex(reply), true),
            None => (hex(outcome), false),
        },
    };
    Line { name, request, outcome: Outcome { reply, close } }
}

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    digits.map(|digits| byte(digits).unwrap_or_else(|| panic!("hex, not {text:.60}"))).collect()
}
