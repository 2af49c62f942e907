//! Messages as bytes, written from the protocol's text and without the code under test.

/// Stores a session. The value of the operation's byte in requests and answers.
pub const ADD: u8 = 0;
/// Fetches a session.
pub const GET: u8 = 1;
/// Removes a session.
pub const REMOVE: u8 = 2;
/// Asks whether there is a session.
pub const HAVE: u8 = 3;
/// Stores a session, replacing an old one; needs patch level 1.
pub const PUT: u8 = 4;
/// Fetches and removes a session; needs patch level 1.
pub const TAKE: u8 = 5;
/// Fetches a session with its lifetime; needs patch level 2.
pub const FETCH: u8 = 6;
/// Stores a session that a FETCH has missed; needs patch level 2.
pub const REPAIR: u8 = 7;
/// Fetches many sessions; needs patch level 2.
pub const COPY: u8 = 8;

/// Returns one frame. `response` and `complete` are 0 or 1 in a valid one.
pub fn frame(response: u8, uid: u32, op: u8, complete: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(14 + data.len());
    push_frame(&mut bytes, response, uid, op, complete, data);
    bytes
}

fn push_frame(bytes: &mut Vec<u8>, response: u8, uid: u32, op: u8, complete: u8, data: &[u8]) {
    let [a, b, c, d] = uid.to_be_bytes();
    let [high, low] = (data.len() as u16).to_be_bytes();
    bytes.extend_from_slice(&[0, 0x11, 0, 0, response, a, b, c, d, 0, op, complete, high, low]);
    bytes.extend_from_slice(data);
}

/// Returns a whole message, in as many frames as its payload needs.
pub fn message(response: u8, uid: u32, op: u8, payload: &[u8]) -> Vec<u8> {
    let frames = payload.len().div_ceil(2048).max(1);
    let mut bytes = Vec::with_capacity(14 * frames + payload.len());
    let mut rest = payload;
    while rest.len() > 2048 {
        let (data, behind) = rest.split_at(2048);
        push_frame(&mut bytes, response, uid, op, 0, data);
        rest = behind;
    }
    push_frame(&mut bytes, response, uid, op, 1, rest);
    bytes
}

/// Returns the same message at another patch level.
pub fn at_level(level: u8, mut message: Vec<u8>) -> Vec<u8> {
    for frame in message.chunks_mut(14 + 2048) {
        frame[3] = level;
    }
    message
}

/// Returns the payload of an ADD or a PUT.
pub fn add_payload(ttl: u32, id: &[u8], session: &[u8]) -> Vec<u8> {
    let id_len = id.len() as u32;
    [&ttl.to_be_bytes(), &id_len.to_be_bytes(), id, session].concat()
}

/// Returns a request to store a session for a minute.
pub fn add(uid: u32, id: &[u8], session: &[u8]) -> Vec<u8> {
    add_for(uid, 60_000, id, session)
}

/// Returns a request to store a session for `ttl` milliseconds.
pub fn add_for(uid: u32, ttl: u32, id: &[u8], session: &[u8]) -> Vec<u8> {
    message(0, uid, ADD, &add_payload(ttl, id, session))
}

/// Returns a request to fetch a session.
pub fn get(uid: u32, id: &[u8]) -> Vec<u8> {
    message(0, uid, GET, id)
}

/// Returns a request to remove a session.
pub fn remove(uid: u32, id: &[u8]) -> Vec<u8> {
    message(0, uid, REMOVE, id)
}

/// Returns a request that asks whether there is a session.
pub fn have(uid: u32, id: &[u8]) -> Vec<u8> {
    message(0, uid, HAVE, id)
}

/// Returns an answer of one byte.
pub fn status(uid: u32, op: u8, status: u8) -> Vec<u8> {
    message(1, uid, op, &[status])
}

/// Returns an answer to GET.
pub fn session(uid: u32, session: &[u8]) -> Vec<u8> {
    message(1, uid, GET, session)
}

/// A message: its uid, its operation, its payload.
pub type Message = (u32, u8, Vec<u8>);

/// Splits valid bytes into messages, each as uid, operation and payload.
///
/// # Panics
/// If the last message is not whole.
pub fn messages(bytes: &[u8]) -> Vec<Message> {
    let (whole, rest) = whole_messages(bytes);
    assert!(rest.is_empty(), "part of a message is left: {rest:02x?}");
    whole
}

/// As [`messages`], and returns the bytes behind the last whole message.
pub fn whole_messages(bytes: &[u8]) -> (Vec<Message>, &[u8]) {
    let (mut whole, mut rest, mut begun) = (Vec::new(), bytes, bytes);
    let mut payload = Vec::new();
    while let Some((header, data)) = rest.split_first_chunk::<14>() {
        let len = usize::from(u16::from_be_bytes([header[12], header[13]]));
        let Some((data, behind)) = data.split_at_checked(len) else {
            break;
        };
        payload.extend(data);
        rest = behind;
        if header[11] == 1 {
            let uid = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
            whole.push((uid, header[10], std::mem::take(&mut payload)));
            begun = rest;
        }
    }
    (whole, begun)
}
