// A TLS or HTTPS server of Node (18 or later) that shares its sessions through distcache. No dependencies.
//
//     import https from 'node:https';
//     import { constants } from 'node:crypto';
//     import { attach } from './distcache.mjs';
//
//     const secureOptions = constants.SSL_OP_NO_TICKET; // else TLS 1.2 clients keep their sessions themselves
//     const sessionIdContext = 'shop';                  // the same at all servers; Node derives one from argv else
//     attach(https.createServer({ key, cert, secureOptions, sessionIdContext }, answer), { path: '/run/distcache/scache' });
//
// This is for TLS 1.2. In TLS 1.3 a session is named by its ticket, and Node never tells that name: it emits
// 'resumeSession' with a field of the ClientHello that is random there, which costs a question in vain. So sessions
// of TLS 1.3 are not stored, and its handshakes are full ones with SSL_OP_NO_TICKET. Without that both versions
// resume by tickets, of which no cache knows: then servers share 48 secret bytes, by the option `ticketKeys` and
// `server.setTicketKeys()`, and need none of this.

import net from 'node:net';

const [ADD, GET, REMOVE, PUT] = [0, 1, 2, 4];
const [OK, AWAY, EXISTS] = [0, 2, 101];
/** Version 0x11 and patch level 1: who answers at level 1 or more has PUT. */
const PROTOCOL = 0x0011_0001;
const [HEADER_LEN, FRAME_DATA_MAX, FRAMES_MAX] = [14, 2048, 16];
const [ID_MAX, SESSION_MIN, LIFETIME_MAX] = [64, 5, 604_800_000];
/** Milliseconds between two lines about what fails: a cache that is away fails every handshake. */
const LOG_EVERY = 10_000;

/**
 * Lets a tls.Server or https.Server keep its sessions in the cache; gives the Cache.
 * `lifetime` is that of sessions in milliseconds, the other options are those of Cache.
 */
export function attach(server, { lifetime = 300_000, ...options } = {}) {
  if (!(lifetime >= 1)) throw new TypeError(`distcache: lifetime must be milliseconds, not ${lifetime}`);
  const cache = new Cache(options);
  // The handshake waits for the store: its client may be at another server a moment later.
  server.on('newSession', (id, session, done) => {
    if (isTls13(session)) done();
    else cache.put(id, session, lifetime).then(() => done());
  });
  server.on('resumeSession', (id, done) => cache.get(id).then((session) => done(null, session)));
  server.on('close', () => cache.close());
  return cache;
}

/** Whether it is a session of TLS 1.3: OpenSSL writes SEQUENCE { INTEGER format, INTEGER version, ... }. */
function isTls13(session) {
  const body = session[1] < 0x80 ? 2 : 2 + (session[1] & 0x7f);
  return session.length >= body + 7 && session.readUInt16BE(body + 5) === 0x0304;
}

/**
 * A cache at `path` (a UNIX socket, usually dc_client's) or at `host` and `port`. Every operation ends within
 * `timeout` milliseconds, and whatever fails is a miss: no promise is ever rejected. `log` gets a line at times.
 */
export class Cache {
  #where;
  #timeout;
  #log;
  #loggedAt = -Infinity;
  #line = null;

  constructor({ path, host = '127.0.0.1', port, timeout = 250, log = () => {} }) {
    const place = path ? typeof path === 'string' : Number.isInteger(port) && port > 0 && port < 65_536;
    if (!place) throw new TypeError(`distcache: needs a path, or a port of 1 to 65535, not ${path ?? port}`);
    if (!(timeout >= 1)) throw new TypeError(`distcache: timeout must be milliseconds, not ${timeout}`);
    this.#where = path ? { path } : { host, port, noDelay: true };
    this.#timeout = timeout;
    this.#log = log;
  }

  /** The session of an id, or null. */
  async get(id) {
    if (!isId(id)) return this.#refuse('an id must be a Uint8Array of 1 to 64 bytes', null);
    const answer = await this.#ask(GET, id, this.#deadline());
    return answer && answer.payload.length >= SESSION_MIN ? answer.payload : null;
  }

  /** Stores a session for `lifetime` milliseconds, in place of what is there; says whether it is stored. */
  async put(id, session, lifetime) {
    if (!isId(id)) return this.#refuse('an id must be a Uint8Array of 1 to 64 bytes', false);
    if (!(session instanceof Uint8Array)) return this.#refuse('a session must be a Uint8Array', false);
    // Not a lifetime at all, or one that is over before it could be stored.
    if (!(lifetime >= 1)) return this.#refuse('a lifetime must be a number of milliseconds, at least 1', false);
    if (session.length < SESSION_MIN) return false;
    const fixed = Buffer.alloc(8);
    fixed.writeUInt32BE(Math.min(Math.trunc(lifetime), LIFETIME_MAX), 0);
    fixed.writeUInt32BE(id.length, 4);
    const payload = Buffer.concat([fixed, id, session]);
    if (payload.length > FRAMES_MAX * FRAME_DATA_MAX) return false;

    const deadline = this.#deadline();
    const added = await this.#ask(ADD, payload, deadline);
    if (added?.status !== EXISTS) return added?.status === OK;
    if (added.level >= 1 && (await this.#ask(PUT, payload, deadline))?.status === OK) return true;
    // A server of old, perhaps behind a proxy that is not: the id is free for a moment between.
    if (!(await this.#ask(REMOVE, id, deadline))) return false;
    return (await this.#ask(ADD, payload, deadline))?.status === OK;
  }

  /** Gives the connection up. A later operation makes a new one. */
  close() {
    this.#line?.end();
  }

  #deadline() {
    return performance.now() + this.#timeout;
  }

  /** What the caller passed is not usable: a failure like any other, and the cache is not asked. */
  #refuse(why, failure) {
    this.#tell(why);
    return failure;
  }

  /** An answer, or null. */
  async #ask(op, payload, deadline) {
    try {
      if (!this.#line || this.#line.ended) this.#line = new Line(this.#where, (why) => this.#tell(why));
      const answer = await this.#line.ask(op, payload, deadline);
      if (answer?.status === AWAY) this.#tell('its server is away');
      return answer;
    } catch (error) {
      this.#tell(error.message);
      return null;
    }
  }

  #tell(why) {
    if (performance.now() - this.#loggedAt < LOG_EVERY) return;
    this.#loggedAt = performance.now();
    try {
      const { path, host, port } = this.#where;
      this.#log(`distcache: ${path ?? `${host}:${port}`}: ${why}; sessions are not shared meanwhile`);
    } catch {} // Somebody else's function may not end a handshake.
  }
}

/** Whether it is an id that the protocol has room for. Text is none: its length is not that of its bytes. */
function isId(id) {
  return id instanceof Uint8Array && id.length >= 1 && id.length <= ID_MAX;
}

/** One connection. Requests are answered in their order; after anything else it is closed, all they ask a miss. */
class Line {
  ended = false;
  #socket;
  #tell;
  #uid = 0;
  #waiting = [];
  #bytes = Buffer.alloc(0);
  #frames = [];

  constructor(where, tell) {
    this.#tell = tell;
    this.#socket = net.connect(where);
    this.#socket.on('data', (bytes) => this.#read(bytes));
    this.#socket.on('error', (error) => this.end(error.message));
    for (const event of ['end', 'close']) this.#socket.on(event, () => this.end('closed the connection'));
    // It shall not keep a process alive that has nothing else to do; the deadline of a request does.
    this.#socket.unref();
  }

  ask(op, payload, deadline) {
    return new Promise((resolve) => {
      this.#uid = (this.#uid + 1) >>> 0;
      const late = () => this.end('no answer in time');
      const timer = setTimeout(late, Math.max(deadline - performance.now(), 0));
      const answer = (found) => (clearTimeout(timer), resolve(found));
      this.#waiting.push({ uid: this.#uid, op, answer });
      this.#socket.write(encode(this.#uid, op, payload));
    });
  }

  end(why) {
    if (this.ended) return;
    this.ended = true;
    this.#socket.destroy();
    if (why && this.#waiting.length > 0) this.#tell(why);
    for (const { answer } of this.#waiting.splice(0)) answer(null);
  }

  #read(bytes) {
    this.#bytes = Buffer.concat([this.#bytes, bytes]);
    while (!this.ended && this.#bytes.length > 0) {
      const asked = this.#waiting[0];
      const frame = asked && parse(this.#bytes, asked);
      if (frame === null) return; // Not whole yet.
      if (!frame || this.#frames.push(frame.data) > FRAMES_MAX) return this.end('what it said is not an answer');
      this.#bytes = this.#bytes.subarray(HEADER_LEN + frame.data.length);
      if (!frame.complete) continue;
      const payload = Buffer.concat(this.#frames.splice(0));
      if (asked.op !== GET && payload.length > 1) return this.end('what it said is not an answer');
      this.#waiting.shift();
      // dc_client of old says nothing at all where it should say that the server is away.
      const status = payload.length === 0 ? AWAY : payload.length === 1 ? payload[0] : undefined;
      asked.answer({ level: frame.level, payload, status });
    }
  }
}

/** A request as its frames. */
function encode(uid, op, payload) {
  const parts = [];
  for (let at = 0; at === 0 || at < payload.length; at += FRAME_DATA_MAX) {
    const data = payload.subarray(at, at + FRAME_DATA_MAX);
    const header = Buffer.alloc(HEADER_LEN);
    header.writeUInt32BE(PROTOCOL, 0);
    header.writeUInt32BE(uid, 5);
    header[10] = op;
    header[11] = at + FRAME_DATA_MAX >= payload.length ? 1 : 0;
    header.writeUInt16BE(data.length, 12);
    parts.push(header, data);
  }
  return Buffer.concat(parts);
}

/** The first frame, where it belongs to the answer of what was asked; undefined if not, null if more must come. */
function parse(bytes, { uid, op }) {
  if (bytes.length < HEADER_LEN) return null;
  const [complete, length] = [bytes[11], bytes.readUInt16BE(12)];
  const ours = bytes.readUInt16BE(0) === PROTOCOL >>> 16 && bytes[4] === 1 && bytes[9] === 0;
  const fits = bytes.readUInt32BE(5) === uid && bytes[10] === op;
  const lawful = complete === 1 ? length <= FRAME_DATA_MAX : complete === 0 && length === FRAME_DATA_MAX;
  if (!ours || !fits || !lawful) return undefined;
  if (bytes.length < HEADER_LEN + length) return null;
  const data = bytes.subarray(HEADER_LEN, HEADER_LEN + length);
  return { level: bytes.readUInt16BE(2), complete: complete === 1, data };
}
