// Shares the sessions of a TLS or HTTPS server through distcache. For Node 18 or later; no dependencies.
//
//     import https from 'node:https';
//     import { constants } from 'node:crypto';
//     import { attach } from './distcache.mjs';
//
//     const secureOptions = constants.SSL_OP_NO_TICKET; // with tickets, the cache would not be used
//     const sessionIdContext = 'shop';                  // the same on all servers; Node's default depends on argv
//     attach(https.createServer({ key, cert, secureOptions, sessionIdContext }, answer), { path: '/run/distcache/scache' });
//
// This works for TLS 1.2 only. In TLS 1.3 the id of a session is inside its ticket, and Node does not expose it: the
// id of 'resumeSession' is a random field of the ClientHello, so that request to the cache finds nothing. Sessions of
// TLS 1.3 are therefore not stored, and with SSL_OP_NO_TICKET its handshakes are full ones.
//
// Without SSL_OP_NO_TICKET both versions resume by tickets, without a cache. Servers then need the same 48 secret
// bytes (option `ticketKeys`, `server.setTicketKeys()`), and not this module.

import net from 'node:net';
import { SealKeys } from './seal.mjs';

const [ADD, GET, REMOVE, PUT] = [0, 1, 2, 4];
const [OK, UNREACHABLE, EXISTS] = [0, 2, 101];
/** Version 0x11 and patch level 1. A server that answers at level 1 or more supports PUT. */
const PROTOCOL = 0x0011_0001;
const [HEADER_LEN, FRAME_DATA_MAX, FRAMES_MAX] = [14, 2048, 16];
const [ID_MAX, SESSION_MIN, LIFETIME_MAX] = [64, 5, 604_800_000];
/** Milliseconds between two log lines: while the cache is unreachable, every handshake fails. */
const LOG_EVERY = 10_000;
/** Bytes that are read at once. */
const READ_MAX = 65_536;

/**
 * Makes a tls.Server or https.Server keep its sessions in the cache. Returns the Cache, which is closed when the
 * server closes. `lifetime` is that of a session, in milliseconds, 300,000 by default and 7 days at most. The other
 * options are those of Cache. Throws a TypeError if an option is invalid.
 */
export function attach(server, { lifetime = 300_000, ...options } = {}) {
  if (!(lifetime >= 1)) throw new TypeError(`distcache: lifetime must be milliseconds, not ${lifetime}`);
  const cache = new Cache(options);
  // The handshake waits for the store, since the client may resume on another server at once.
  server.on('newSession', (id, session, done) => {
    if (isTls13(session)) done();
    else cache.put(id, session, lifetime).then(() => done());
  });
  server.on('resumeSession', async (id, done) => {
    const session = await cache.get(id);
    done(null, session);
    session?.fill(0); // OpenSSL has made a copy of its own.
  });
  server.on('close', () => cache.close());
  return cache;
}

/** Returns whether a session is of TLS 1.3. OpenSSL encodes SEQUENCE { INTEGER format, INTEGER version, ... }. */
function isTls13(session) {
  const body = session[1] < 0x80 ? 2 : 2 + (session[1] & 0x7f);
  return session.length >= body + 7 && session.readUInt16BE(body + 5) === 0x0304;
}

/**
 * A client of the cache at `path` (a UNIX socket, usually of dc_client) or at `host` and `port`.
 *
 * Every operation ends within `timeout` milliseconds, 250 by default. A failure counts as a miss: no promise is ever
 * rejected. `log` is called with a line of text about failures, at most once in ten seconds. The constructor throws a
 * TypeError if an option is invalid.
 *
 * With `sealKeys`, the path of a key file, sessions are encrypted before they are sent and opened when they come back:
 * see docs/security.md, "Sealed sessions". The file is looked at again once in ten seconds. A session that does not
 * open counts as a miss, also one that is not sealed, unless `sealKeysMixed` is true. The constructor throws an Error
 * if the file cannot be used. This needs seal.mjs beside this file.
 */
export class Cache {
  #where;
  #timeout;
  #log;
  #loggedAt = -Infinity;
  #connection = null;
  #seal = null;

  constructor({ path, host = '127.0.0.1', port, timeout = 250, log = () => {}, sealKeys, sealKeysMixed = false }) {
    const place = path ? typeof path === 'string' : Number.isInteger(port) && port > 0 && port < 65_536;
    if (!place) throw new TypeError(`distcache: needs a path, or a port of 1 to 65535, not ${path ?? port}`);
    if (!(timeout >= 1)) throw new TypeError(`distcache: timeout must be milliseconds, not ${timeout}`);
    this.#where = path ? { path } : { host, port, noDelay: true };
    this.#timeout = timeout;
    this.#log = log;
    if (sealKeys !== undefined) this.#seal = new SealKeys(sealKeys, sealKeysMixed, (why) => this.#logLine(why));
  }

  /** How many sessions did not open, by reason; null without `sealKeys`. */
  get unopened() {
    return this.#seal && { ...this.#seal.unopened };
  }

  /** Returns the session of an id, a Uint8Array of 1 to 64 bytes, or null. */
  async get(id) {
    if (!isId(id)) return this.#refuse('an id must be a Uint8Array of 1 to 64 bytes', null);
    const answer = await this.#ask(GET, id, this.#deadline());
    if (!answer || answer.payload.length < SESSION_MIN) return null;
    return this.#seal ? this.#seal.open(id, answer.payload) : answer.payload;
  }

  /**
   * Stores a session for `lifetime` milliseconds, 7 days at most, and replaces one that the id has. Returns whether it
   * is stored. `id` and `session` are Uint8Arrays: the session of 5 bytes or more, both together of 32,760 or less
   * (32,712 with `sealKeys`).
   */
  async put(id, session, lifetime) {
    if (!isId(id)) return this.#refuse('an id must be a Uint8Array of 1 to 64 bytes', false);
    if (!(session instanceof Uint8Array)) return this.#refuse('a session must be a Uint8Array', false);
    // Also rejects what is not a number.
    if (!(lifetime >= 1)) return this.#refuse('a lifetime must be a number of milliseconds, at least 1', false);
    if (session.length < SESSION_MIN || session.length > FRAMES_MAX * FRAME_DATA_MAX) return false;
    const fixed = Buffer.alloc(8);
    fixed.writeUInt32BE(Math.min(Math.trunc(lifetime), LIFETIME_MAX), 0);
    fixed.writeUInt32BE(id.length, 4);
    const data = this.#seal ? this.#seal.seal(id, session, Math.min(lifetime, LIFETIME_MAX)) : session;
    if (fixed.length + id.length + data.length > FRAMES_MAX * FRAME_DATA_MAX) return false;
    const payload = Buffer.concat([fixed, id, data]);
    try {
      return await this.#replace(id, payload, this.#deadline());
    } finally {
      payload.fill(0);
    }
  }

  /** Stores the payload of an ADD in place of what the id has. Returns whether it is stored. */
  async #replace(id, payload, deadline) {
    const added = await this.#ask(ADD, payload, deadline);
    if (added?.status !== EXISTS) return added?.status === OK;
    if (added.level >= 1 && (await this.#ask(PUT, payload, deadline))?.status === OK) return true;
    // The server does not support PUT. Between the two requests the id is free for a moment.
    if (!(await this.#ask(REMOVE, id, deadline))) return false;
    return (await this.#ask(ADD, payload, deadline))?.status === OK;
  }

  /** Closes the connection. A later operation opens a new one. */
  close() {
    this.#connection?.end();
  }

  #deadline() {
    return performance.now() + this.#timeout;
  }

  /** Logs an invalid argument and returns `failure`, without asking the cache. */
  #refuse(why, failure) {
    this.#logLine(why);
    return failure;
  }

  /** Sends a request. Returns the answer, or null. */
  async #ask(op, payload, deadline) {
    try {
      if (!this.#connection || this.#connection.ended) this.#connection = new Connection(this.#where, (why) => this.#report(why));
      const answer = await this.#connection.ask(op, payload, deadline);
      if (answer?.status === UNREACHABLE) this.#report('its server is unreachable');
      return answer;
    } catch (error) {
      this.#report(error.message);
      return null;
    }
  }

  /** Logs that the cache does not answer. */
  #report(why) {
    this.#logLine(`${why}; sessions are not shared meanwhile`);
  }

  /** Logs a line, if the last one was long enough ago. */
  #logLine(line) {
    if (performance.now() - this.#loggedAt < LOG_EVERY) return;
    this.#loggedAt = performance.now();
    try {
      const { path, host, port } = this.#where;
      this.#log(`distcache: ${path ?? `${host}:${port}`}: ${line}`);
    } catch {} // An error of the caller's function must not end a handshake.
  }
}

/** Returns whether it is a valid id. Text is not: its length is not its number of bytes. */
function isId(id) {
  return id instanceof Uint8Array && id.length >= 1 && id.length <= ID_MAX;
}

/**
 * One connection, on which the server answers requests in order. Any other data closes it and fails all requests.
 *
 * Sessions are wiped from its buffers once they are sent, or returned. Node fills a buffer of ours instead of a new one
 * for each read.
 */
class Connection {
  ended = false;
  #socket;
  #report;
  #uid = 0;
  #waiting = [];
  #bytes = Buffer.alloc(0);
  #frames = [];

  constructor(where, report) {
    this.#report = report;
    const buffer = Buffer.alloc(READ_MAX);
    const callback = (length) => {
      this.#read(buffer.subarray(0, length));
      buffer.fill(0, 0, length);
      return true;
    };
    this.#socket = net.connect({ ...where, onread: { buffer, callback } });
    this.#socket.on('error', (error) => this.end(error.message));
    for (const event of ['end', 'close']) this.#socket.on(event, () => this.end('closed the connection'));
    // An idle connection must not keep the process alive. The timer of a request does.
    this.#socket.unref();
  }

  ask(op, payload, deadline) {
    return new Promise((resolve) => {
      this.#uid = (this.#uid + 1) >>> 0;
      const timedOut = () => this.end('no answer in time');
      const timer = setTimeout(timedOut, Math.max(deadline - performance.now(), 0));
      const answer = (found) => (clearTimeout(timer), resolve(found));
      this.#waiting.push({ uid: this.#uid, op, answer });
      const message = encode(this.#uid, op, payload);
      this.#socket.write(message, () => message.fill(0));
    });
  }

  end(why) {
    if (this.ended) return;
    this.ended = true;
    this.#socket.destroy();
    if (why && this.#waiting.length > 0) this.#report(why);
    for (const { answer } of this.#waiting.splice(0)) answer(null);
    for (const bytes of [this.#bytes, ...this.#frames.splice(0)]) bytes.fill(0);
  }

  #read(bytes) {
    const before = this.#bytes;
    this.#bytes = Buffer.concat([before, bytes]);
    before.fill(0);
    while (!this.ended && this.#bytes.length > 0) {
      const request = this.#waiting[0];
      const frame = request && parse(this.#bytes, request);
      if (frame === null) return; // Not complete yet.
      if (!frame || this.#frames.push(Buffer.from(frame.data)) > FRAMES_MAX) return this.end('received data that is not an answer');
      const length = HEADER_LEN + frame.data.length;
      this.#bytes.fill(0, 0, length);
      this.#bytes = this.#bytes.subarray(length);
      if (!frame.complete) continue;
      const frames = this.#frames.splice(0);
      const payload = Buffer.concat(frames);
      for (const data of frames) data.fill(0);
      if (request.op !== GET && payload.length > 1) return this.end('received data that is not an answer');
      this.#waiting.shift();
      // Old versions of dc_client send an empty answer if the server is unreachable.
      const status = payload.length === 0 ? UNREACHABLE : payload.length === 1 ? payload[0] : undefined;
      request.answer({ level: frame.level, payload, status });
    }
  }
}

/** Encodes a request as frames. */
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

/** Returns the first frame, null if it is incomplete, or undefined if it does not answer the request. */
function parse(bytes, { uid, op }) {
  if (bytes.length < HEADER_LEN) return null;
  const [complete, length] = [bytes[11], bytes.readUInt16BE(12)];
  const ours = bytes.readUInt16BE(0) === PROTOCOL >>> 16 && bytes[4] === 1 && bytes[9] === 0;
  const fits = bytes.readUInt32BE(5) === uid && bytes[10] === op;
  const valid = complete === 1 ? length <= FRAME_DATA_MAX : complete === 0 && length === FRAME_DATA_MAX;
  if (!ours || !fits || !valid) return undefined;
  if (bytes.length < HEADER_LEN + length) return null;
  const data = bytes.subarray(HEADER_LEN, HEADER_LEN + length);
  return { level: bytes.readUInt16BE(2), complete: complete === 1, data };
}
