// Seals sessions: encrypts them before they leave this machine, and opens them when they come back. The envelope and
// the key file are those of docs/security.md, "Sealed sessions", so other TLS servers with the same keys read them.

import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import fs from 'node:fs';

const FORMAT = 0xd5;
/** Format, key id and expiry; with the nonce; and the tag behind the session. */
const [FIXED_LEN, HEADER_LEN, TAG_LEN, NONCE_LEN] = [8, 32, 16, 24];
const [KEY_LEN, KEYS_MAX, FILE_MAX] = [32, 8, 8192];
/** How much longer a sealed session is. */
export const OVERHEAD = HEADER_LEN + TAG_LEN;
/** Milliseconds between two looks at the key file. */
const LOOK_EVERY = 10_000;

const ROTATIONS = [16, 12, 8, 7];
/** The words of a quarter round: the columns, then the diagonals. */
const QUARTERS = [
  [0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15],
  [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14],
];

/** HChaCha20 of draft-irtf-cfrg-xchacha: a key for ChaCha20 from a key and the first 16 bytes of a nonce. */
export function hchacha20(key, nonce) {
  const state = new Uint32Array(16);
  state.set([0x61707865, 0x3320646e, 0x79622d32, 0x6b206574]);
  for (let word = 0; word < 8; word++) state[4 + word] = key.readUInt32LE(4 * word);
  for (let word = 0; word < 4; word++) state[12 + word] = nonce.readUInt32LE(4 * word);
  for (let round = 0; round < 10; round++) {
    for (const [a, b, c, d] of QUARTERS) {
      for (const [step, by] of ROTATIONS.entries()) {
        const [to, from, turned] = step % 2 === 0 ? [a, b, d] : [c, d, b];
        state[to] += state[from];
        const mixed = state[turned] ^ state[to];
        state[turned] = (mixed << by) | (mixed >>> (32 - by));
      }
    }
  }
  const derived = Buffer.alloc(KEY_LEN);
  for (const [at, word] of [0, 1, 2, 3, 12, 13, 14, 15].entries()) derived.writeUInt32LE(state[word], 4 * at);
  state.fill(0);
  return derived;
}

/** Makes a cipher or decipher of XChaCha20-Poly1305. */
function cipher(create, key, nonce, associated, plaintextLength) {
  const derived = hchacha20(key, nonce.subarray(0, 16));
  const short = Buffer.concat([Buffer.alloc(4), nonce.subarray(16)]);
  const made = create('chacha20-poly1305', derived, short, { authTagLength: TAG_LEN });
  derived.fill(0);
  return made.setAAD(associated, { plaintextLength });
}

/** The 3 bytes that tell keys apart: from the tag of nothing, under a nonce that is never drawn. */
function keyId(key) {
  const nothing = cipher(createCipheriv, key, Buffer.alloc(NONCE_LEN, 0xff), Buffer.alloc(0), 0);
  nothing.final();
  return nothing.getAuthTag().subarray(0, 3);
}

/** Seconds since 1970. */
const unixNow = () => Math.floor(Date.now() / 1000);

/** The keys of a list of Buffers, the newest first. The first one seals, all of them open. */
export class Keys {
  #keys;

  constructor(keys) {
    this.#keys = keys.map((key) => ({ key, id: keyId(key) }));
  }

  /** Returns the sealed session. It opens until the end of second `expires` since 1970. */
  seal(id, session, expires, nonce = randomBytes(NONCE_LEN)) {
    const [{ key, id: ofKey }] = this.#keys;
    const fixed = Buffer.alloc(FIXED_LEN);
    fixed[0] = FORMAT;
    ofKey.copy(fixed, 1);
    fixed.writeUInt32BE(Math.min(expires, 0xffff_ffff), 4);
    const sealing = cipher(createCipheriv, key, nonce, Buffer.concat([fixed, id]), session.length);
    const encrypted = sealing.update(session);
    sealing.final();
    return Buffer.concat([fixed, nonce, encrypted, sealing.getAuthTag()]);
  }

  /** Returns { session }, or { reason }: 'notSealed', 'unknownKey', 'forged' or 'expired'. */
  open(id, envelope, now = unixNow()) {
    if (envelope.length < OVERHEAD || envelope[0] !== FORMAT) return { reason: 'notSealed' };
    const fixed = envelope.subarray(0, FIXED_LEN);
    const nonce = envelope.subarray(FIXED_LEN, HEADER_LEN);
    const encrypted = envelope.subarray(HEADER_LEN, -TAG_LEN);
    const fitting = this.#keys.filter((candidate) => candidate.id.equals(fixed.subarray(1, 4)));
    for (const { key } of fitting) {
      const opening = cipher(createDecipheriv, key, nonce, Buffer.concat([fixed, id]), encrypted.length);
      opening.setAuthTag(envelope.subarray(-TAG_LEN));
      const session = opening.update(encrypted);
      try {
        opening.final();
      } catch {
        session.fill(0);
        continue;
      }
      if (now <= fixed.readUInt32BE(4)) return { session };
      session.fill(0);
      return { reason: 'expired' };
    }
    return { reason: fitting.length > 0 ? 'forged' : 'unknownKey' };
  }

  wipe() {
    for (const { key } of this.#keys) key.fill(0);
  }
}

/** The keys of a file, read again if it changes. */
export class SealKeys {
  /** How many sessions did not open, by reason. */
  unopened = { notSealed: 0, unknownKey: 0, forged: 0, expired: 0 };
  #path;
  #mixed;
  #report;
  #keys;
  #version;
  #lookAt;

  /** Throws an Error of one line if the file cannot be used. `report` gets a line if it cannot be used later. */
  constructor(path, mixed, report) {
    [this.#path, this.#mixed, this.#report] = [path, mixed, report];
    [this.#keys, this.#version] = read(path);
    this.#lookAt = performance.now() + LOOK_EVERY;
  }

  /** Returns the sealed session for a lifetime in milliseconds. */
  seal(id, session, lifetime) {
    this.#follow();
    return this.#keys.seal(id, session, unixNow() + Math.ceil(lifetime / 1000));
  }

  /** Returns the session, or null if it does not open, which is counted and reported. */
  open(id, envelope) {
    this.#follow();
    const { session, reason } = this.#keys.open(id, envelope);
    if (session) return session;
    if (reason === 'notSealed' && this.#mixed) return envelope;
    this.unopened[reason]++;
    const counts = Object.entries(this.unopened).map(([why, count]) => `${why} ${count}`).join(', ');
    this.#report(`a session did not open and counts as not found (so far: ${counts})`);
    return null;
  }

  /** Looks at the file, once in ten seconds at most. A bad file leaves the old keys in use. */
  #follow() {
    if (performance.now() < this.#lookAt) return;
    this.#lookAt = performance.now() + LOOK_EVERY;
    try {
      if (version(fs.statSync(this.#path, { bigint: true })) === this.#version) return;
      const old = this.#keys;
      [this.#keys, this.#version] = read(this.#path);
      old.wipe();
    } catch (error) {
      this.#report(`${error.message}; the old keys stay in use`);
    }
  }
}

/** What tells one version of a file from another. */
const version = ({ ino, size, mtimeNs, ctimeNs }) => [ino, size, mtimeNs, ctimeNs].join();

/** Reads a key file. Returns its keys and its version. */
function read(path) {
  const refuse = (why) => new Error(`cannot use the keys in ${path}: ${why}`);
  let file;
  try {
    file = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  } catch (error) {
    throw refuse(error.message);
  }
  const text = Buffer.alloc(FILE_MAX + 1);
  try {
    // Of the open file: its name could mean another one by now.
    const stat = fs.fstatSync(file, { bigint: true });
    if (!stat.isFile()) throw refuse('not a regular file');
    const mode = Number(stat.mode & 0o7777n);
    if (stat.uid !== 0n && Number(stat.uid) !== process.geteuid()) throw refuse(`it belongs to user ${stat.uid}`);
    if (mode & ~0o600) throw refuse(`its mode is ${mode.toString(8)}: chmod 600 ${path}`);
    let len = 0;
    for (let more = 1; more > 0 && len < text.length; len += more) more = fs.readSync(file, text, len, text.length - len, null);
    if (len > FILE_MAX) throw refuse(`more than ${FILE_MAX} bytes: not a key file`);
    return [new Keys(parse(text.subarray(0, len), refuse)), version(stat)];
  } finally {
    text.fill(0);
    fs.closeSync(file);
  }
}

/** Parses lines of 64 hexadecimal digits. */
function parse(text, refuse) {
  const keys = [];
  // The strings remain in memory until they are collected: JavaScript cannot wipe them.
  for (const [at, line] of text.toString('latin1').split('\n').entries()) {
    const digits = line.trim();
    if (digits === '' || digits.startsWith('#')) continue;
    if (!/^[0-9a-fA-F]{64}$/.test(digits)) throw refuse(`line ${at + 1} is not a key: a key is 64 hexadecimal digits`);
    const key = Buffer.from(digits, 'hex');
    if (keys.some((earlier) => earlier.equals(key))) throw refuse(`line ${at + 1} has the same key as an earlier line`);
    if (keys.push(key) > KEYS_MAX) throw refuse(`line ${at + 1} has key number ${KEYS_MAX + 1}: remove the oldest, the last ones`);
  }
  if (keys.length === 0) throw refuse('there is no key: add one with `dc_client -newkey`');
  return keys;
}
