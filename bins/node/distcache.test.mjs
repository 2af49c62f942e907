// Tests of distcache.mjs: with a real dc_server, whose address is in DISTCACHE_SERVER as host:port, and with scripted
// servers that are old, silent or hostile. TLS_DIR has key.pem and cert.pem.
//
//     DISTCACHE_SERVER=127.0.0.1:9001 TLS_DIR=/path node --test distcache.test.mjs

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { constants, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import net from 'node:net';
import { join } from 'node:path';
import test from 'node:test';
import tls from 'node:tls';
import { promisify } from 'node:util';
import { attach, Cache } from './distcache.mjs';
import { hchacha20, Keys, OVERHEAD, SealKeys } from './seal.mjs';

const [ADD, GET, REMOVE, PUT] = [0, 1, 2, 4];
const [OK, UNREACHABLE, UNSUPPORTED, EXISTS] = [0, 2, 3, 101];
const MINUTE = 60_000;
/** Milliseconds after which a test fails. No operation takes nearly as long. */
const PATIENCE = 20_000;

function setting(name) {
  assert.ok(process.env[name], `${name} must be set: see the top of this file`);
  return process.env[name];
}

function realServer() {
  const [host, port] = setting('DISTCACHE_SERVER').split(':');
  return { host, port: Number(port) };
}

/** Returns a cache that is closed at the end of its test. */
function open(t, options) {
  const cache = new Cache({ timeout: PATIENCE, ...options });
  t.after(() => cache.close());
  return cache;
}

/** Encodes one frame after docs/protocol.md, with the fields of a test, right or wrong. */
function frame({ version = 0x11, level = 1, response = 1, uid, opClass = 0, op, complete = 1, data, length }) {
  const header = Buffer.alloc(14);
  header.writeUInt16BE(version, 0);
  header.writeUInt16BE(level, 2);
  header[4] = response;
  header.writeUInt32BE(uid, 5);
  header[9] = opClass;
  header[10] = op;
  header[11] = complete;
  header.writeUInt16BE(length ?? data.length, 12);
  return Buffer.concat([header, data]);
}

/** Encodes a whole answer, in as many frames as it needs. */
function message({ data, ...fields }) {
  const frames = Math.max(Math.ceil(data.length / 2048), 1);
  const one = (_, number) => {
    const complete = number + 1 === frames ? 1 : 0;
    return frame({ ...fields, complete, data: data.subarray(number * 2048, (number + 1) * 2048) });
  };
  return Buffer.concat(Array.from({ length: frames }, one));
}

/**
 * Starts a server that answers each request with the result of `answer({ level, uid, op, payload }, socket)`, if any.
 * Records requests and connections.
 */
async function scripted(t, answer) {
  const script = { asked: [], sockets: [], port: 0 };
  const server = net.createServer((socket) => {
    script.sockets.push(socket);
    socket.on('error', () => {});
    let [bytes, payload] = [Buffer.alloc(0), Buffer.alloc(0)];
    socket.on('data', (more) => {
      bytes = Buffer.concat([bytes, more]);
      while (bytes.length >= 14 && bytes.length >= 14 + bytes.readUInt16BE(12)) {
        const end = 14 + bytes.readUInt16BE(12);
        const [level, uid, op, complete] = [bytes.readUInt16BE(2), bytes.readUInt32BE(5), bytes[10], bytes[11]];
        payload = Buffer.concat([payload, bytes.subarray(14, end)]);
        bytes = bytes.subarray(end);
        if (!complete) continue;
        const request = { level, uid, op, payload };
        payload = Buffer.alloc(0);
        script.asked.push(request);
        const said = answer(request, socket);
        if (said) socket.write(said);
      }
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  script.port = server.address().port;
  t.after(() => {
    server.close();
    for (const socket of script.sockets) socket.destroy();
  });
  return script;
}

/** Starts a scripted server that answers with these status bytes, one after the other. */
function statuses(t, level, ...codes) {
  return scripted(t, ({ uid, op }) => frame({ level, uid, op, data: Buffer.from([codes.shift()]) }));
}

test('a stored session is fetched, and no other', async (t) => {
  const cache = open(t, realServer());
  const id = randomBytes(32);
  assert.equal(await cache.get(id), null);
  assert.equal(await cache.put(id, Buffer.from('a session'), MINUTE), true);
  assert.equal(String(await cache.get(id)), 'a session');
  assert.equal(await cache.get(randomBytes(32)), null);
});

test('a session of any length that fits comes back as it was', async (t) => {
  const cache = open(t, realServer());
  for (const length of [5, 2000, 2048, 2049, 4096, 10_000, 32_768 - 8 - 32]) {
    const [id, session] = [randomBytes(32), randomBytes(length)];
    assert.equal(await cache.put(id, session, MINUTE), true, `${length}`);
    assert.deepEqual(await cache.get(id), session);
  }
});

test('an id or session out of bounds is refused without asking', async (t) => {
  const server = await scripted(t, () => null);
  const cache = open(t, { port: server.port });
  const session = Buffer.from('a session');
  assert.equal(await cache.put(Buffer.alloc(0), session, MINUTE), false);
  assert.equal(await cache.put(randomBytes(65), session, MINUTE), false);
  assert.equal(await cache.put(randomBytes(32), randomBytes(4), MINUTE), false);
  assert.equal(await cache.put(randomBytes(32), randomBytes(32_768 - 8 - 31), MINUTE), false);
  assert.equal(server.sockets.length, 0);
});

test('an invalid id, session or lifetime is a failure that harms no other operation', async (t) => {
  const lines = [];
  const server = await scripted(t, ({ uid, op, payload }) =>
    op === GET ? frame({ uid, op, data: payload }) : frame({ uid, op, data: Buffer.from([OK]) }),
  );
  const cache = open(t, { port: server.port, log: (line) => lines.push(line) });
  const [id, session] = [randomBytes(32), Buffer.from('a session')];
  const fine = async () => {
    assert.deepEqual(await cache.get(id), id);
    assert.equal(await cache.put(id, session, MINUTE), true);
  };
  await fine();
  for (const lifetime of [-1, 0, 0.5, NaN, -Infinity, undefined, 'soon', {}]) {
    assert.equal(await cache.put(id, session, lifetime), false, String(lifetime));
  }
  await fine();
  // Some of these texts have more bytes than characters, so their length would be wrong on the wire.
  for (const unfit of ['a text', 'ein Schlüssel', '', 7, null, undefined, [1, 2], {}, new ArrayBuffer(8)]) {
    assert.equal(await cache.get(unfit), null, String(unfit));
    assert.equal(await cache.put(unfit, session, MINUTE), false, String(unfit));
    assert.equal(await cache.put(id, unfit, MINUTE), false, String(unfit));
    await fine();
  }
  assert.equal(server.sockets.length, 1, 'the connection was kept');
  assert.ok(server.asked.every(({ payload }) => payload.equals(id) || payload.subarray(8, 40).equals(id)));
  assert.match(String(lines), /lifetime must be a number/);
  assert.equal(await cache.put(id, session, Infinity), true, 'an infinite lifetime is cut to the longest');
});

test('an id of any Uint8Array is taken', async (t) => {
  const cache = open(t, realServer());
  const id = new Uint8Array(randomBytes(32));
  assert.equal(await cache.put(id, new Uint8Array(Buffer.from('a session')), MINUTE), true);
  assert.equal(String(await cache.get(id)), 'a session');
});

test('storing again replaces the session', async (t) => {
  const cache = open(t, realServer());
  const id = randomBytes(32);
  for (const session of ['the first', 'the second', 'the third']) {
    assert.equal(await cache.put(id, Buffer.from(session), MINUTE), true);
    assert.equal(String(await cache.get(id)), session);
  }
});

test('a session is gone when its lifetime is over', async (t) => {
  const cache = open(t, realServer());
  const id = randomBytes(32);
  assert.equal(await cache.put(id, Buffer.from('a session'), 1), true);
  for (const began = Date.now(); await cache.get(id); ) assert.ok(Date.now() - began < PATIENCE);
});

test('of a thousand requests at once each gets its own answer', async (t) => {
  const cache = open(t, realServer());
  const ids = Array.from({ length: 1000 }, () => randomBytes(32));
  const stored = await Promise.all(ids.map((id) => cache.put(id, Buffer.concat([id, id]), MINUTE)));
  assert.ok(stored.every((was) => was === true));
  const found = await Promise.all(ids.map((id) => cache.get(id)));
  ids.forEach((id, number) => assert.deepEqual(found[number], Buffer.concat([id, id])));
});

test('if the id has a session, a server that answers at level 1 is sent PUT', async (t) => {
  const server = await statuses(t, 1, EXISTS, OK);
  assert.equal(await open(t, server).put(randomBytes(32), Buffer.from('a session'), MINUTE), true);
  assert.deepEqual(server.asked.map(({ op }) => op), [ADD, PUT]);
  assert.ok(server.asked.every(({ level }) => level === 1));
  assert.deepEqual(server.asked[0].payload, server.asked[1].payload);
});

test('a server that answers at level 0 is sent REMOVE and ADD instead', async (t) => {
  const server = await statuses(t, 0, EXISTS, OK, OK);
  assert.equal(await open(t, server).put(randomBytes(32), Buffer.from('a session'), MINUTE), true);
  assert.deepEqual(server.asked.map(({ op }) => op), [ADD, REMOVE, ADD]);
});

test('a proxy whose server does not support PUT is sent REMOVE and ADD', async (t) => {
  const server = await statuses(t, 1, EXISTS, UNSUPPORTED, OK, OK);
  assert.equal(await open(t, server).put(randomBytes(32), Buffer.from('a session'), MINUTE), true);
  assert.deepEqual(server.asked.map(({ op }) => op), [ADD, PUT, REMOVE, ADD]);
});

test('an answer may arrive in pieces of any size', async (t) => {
  const session = randomBytes(4100);
  const server = await scripted(t, ({ uid, op }, socket) => {
    socket.setNoDelay(true);
    const said = message({ uid, op, data: session });
    let at = 0;
    // One byte in each turn of the event loop, so that many of them arrive alone.
    const step = () => at < said.length && (socket.write(said.subarray(at, ++at)), setImmediate(step));
    step();
  });
  assert.deepEqual(await open(t, server).get(randomBytes(32)), session);
});

test('an unreachable server is a miss, and is logged at most once in ten seconds', async (t) => {
  const lines = [];
  const server = await scripted(t, ({ uid, op }) => frame({ uid, op, data: Buffer.from([UNREACHABLE]) }));
  const cache = open(t, { port: server.port, log: (line) => lines.push(line) });
  for (let round = 0; round < 3; round++) assert.equal(await cache.get(randomBytes(32)), null);
  assert.equal(lines.length, 1, String(lines));
  assert.match(lines[0], /^distcache: 127\.0\.0\.1:\d+: its server is unreachable; /);
});

const many = (length) => Array.from({ length }, (_, number) => number);
const full = randomBytes(2048);
/** Data that is not an answer to the request, by what is wrong with it. */
const HOSTILE = {
  garbage: () => randomBytes(100).fill(0xee, 0, 2),
  'another protocol': () => Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n'),
  'a wrong uid': ({ uid, op }) => frame({ uid: uid + 1, op, data: Buffer.from('a session') }),
  'another operation': ({ uid }) => frame({ uid, op: ADD, data: Buffer.from([OK]) }),
  'another class': ({ uid, op }) => frame({ uid, op, opClass: 1, data: Buffer.from('a session') }),
  'another version': ({ uid, op }) => frame({ uid, op, version: 0x12, data: Buffer.from('a session') }),
  'a request': ({ uid, op }) => frame({ uid, op, response: 0, data: Buffer.from('a session') }),
  'an unlawful end mark': ({ uid, op }) => frame({ uid, op, complete: 2, data: full }),
  'a first frame that is not full': ({ uid, op }) => frame({ uid, op, complete: 0, data: full.subarray(1) }),
  'a frame that is too long': ({ uid, op }) => frame({ uid, op, data: randomBytes(2049) }),
  'seventeen frames': ({ uid, op }) =>
    Buffer.concat(many(17).map((number) => frame({ uid, op, complete: number === 16 ? 1 : 0, data: full }))),
  'frames without an end': ({ uid, op }) =>
    Buffer.concat(many(1000).map(() => frame({ uid, op, complete: 0, data: full }))),
  'frames of two messages': ({ uid, op }) =>
    Buffer.concat([frame({ uid, op, complete: 0, data: full }), frame({ uid: uid + 1, op, data: full })]),
  'half a header and the end': ({ uid, op }, socket) => {
    socket.end(frame({ uid, op, data: Buffer.from('a session') }).subarray(0, 9));
  },
  'half a message and the end': ({ uid, op }, socket) => {
    socket.end(message({ uid, op, data: randomBytes(5000) }).subarray(0, 4000));
  },
  'the end': (_, socket) => void socket.end(),
  'a reset': (_, socket) => void socket.resetAndDestroy(),
};

for (const [what, answer] of Object.entries(HOSTILE)) {
  test(`${what} is a miss, closes the connection, and harms no later request`, async (t) => {
    let hostile = true;
    const server = await scripted(t, (request, socket) => {
      if (hostile) return answer(request, socket);
      return frame({ uid: request.uid, op: request.op, data: Buffer.from('a session') });
    });
    const lines = [];
    const cache = open(t, { port: server.port, log: (line) => lines.push(line) });
    assert.equal(await cache.get(randomBytes(32)), null);
    assert.match(String(lines), /not an answer|closed the connection|ECONNRESET/, 'at once, not after the timeout');
    // Several at once share the connection and fail with it.
    const found = await Promise.all(many(3).map(() => cache.get(randomBytes(32))));
    assert.deepEqual(found, [null, null, null]);
    const before = server.sockets.length;
    hostile = false;
    assert.equal(String(await cache.get(randomBytes(32))), 'a session');
    assert.equal(server.sockets.length, before + 1, 'on a new connection');
  });
}

test('a session of four bytes is a miss, and a status longer than a byte closes the connection', async (t) => {
  const server = await scripted(t, ({ uid, op }) => frame({ uid, op, data: Buffer.alloc(4) }));
  const cache = open(t, server);
  assert.equal(await cache.get(randomBytes(32)), null);
  assert.equal(await cache.put(randomBytes(32), Buffer.from('a session'), MINUTE), false);
  assert.equal(await cache.get(randomBytes(32)), null);
  assert.equal(server.sockets.length, 2);
});

test('an answer without a request closes the connection before it can answer the next one', async (t) => {
  const right = ({ uid, op }) => frame({ uid, op, data: Buffer.from('a session') });
  const server = await scripted(t, (request) => {
    const next = frame({ uid: request.uid + 1, op: GET, data: Buffer.from('somebody else') });
    return Buffer.concat([right(request), next]);
  });
  const cache = open(t, server);
  for (const turn of [1, 2]) {
    assert.equal(String(await cache.get(randomBytes(32))), 'a session');
    assert.equal(server.sockets.length, turn);
  }
});

test('a silent server is a miss after the timeout, and a late answer is dropped', async (t) => {
  let held;
  const server = await scripted(t, (request, socket) => {
    held ??= { request, socket };
    if (held.request !== request) return frame({ ...request, response: 1, data: Buffer.from('in time') });
  });
  const cache = open(t, { port: server.port, timeout: 1000 });
  const began = performance.now();
  assert.equal(await cache.get(randomBytes(32)), null);
  assert.ok(performance.now() - began >= 990);
  held.socket.write(frame({ ...held.request, response: 1, data: Buffer.from('too late') }));
  assert.equal(String(await cache.get(randomBytes(32))), 'in time');
  assert.equal(server.sockets.length, 2);
});

test('one connection serves all requests, for longer than the timeout of one', async (t) => {
  const server = await scripted(t, ({ uid, op }) => frame({ uid, op, data: Buffer.from('a session') }));
  const cache = open(t, { port: server.port, timeout: 1000 });
  for (const began = performance.now(); performance.now() < began + 1200; ) {
    assert.equal(String(await cache.get(randomBytes(32))), 'a session');
  }
  assert.equal(server.sockets.length, 1);
});

test('an idle connection does not keep the process alive', async () => {
  const { host, port } = realServer();
  const module = new URL('distcache.mjs', import.meta.url);
  const program = `const { Cache } = await import('${module}');
    const cache = new Cache({ host: '${host}', port: ${port} });
    console.log(await cache.get(Buffer.from('an id that nobody has')));`;
  const options = ['--input-type=module', '--eval', program];
  const { stdout } = await promisify(execFile)(process.execPath, options, { timeout: PATIENCE });
  assert.equal(stdout, 'null\n');
});

test('if nothing listens, every operation is a miss at once', async (t) => {
  const lines = [];
  const cache = open(t, { path: join(setting('TLS_DIR'), 'nobody'), log: (line) => lines.push(line) });
  assert.equal(await cache.get(randomBytes(32)), null);
  assert.equal(await cache.put(randomBytes(32), Buffer.from('a session'), MINUTE), false);
  assert.equal(lines.length, 1);
  assert.match(lines[0], /ENOENT/);
});

test('an error thrown by the log function harms no operation', async (t) => {
  const log = () => {
    throw new Error('not now');
  };
  const cache = open(t, { path: join(setting('TLS_DIR'), 'nobody'), log });
  assert.equal(await cache.get(randomBytes(32)), null);
});

test('invalid options are refused at once, by name', () => {
  const refused = (options, what) => assert.throws(() => attach(new net.Server(), options), what);
  refused({}, /path/);
  refused({ port: 0 }, /port/);
  refused({ port: 65_536 }, /port/);
  refused({ port: '9001' }, /port/);
  refused({ path: '/run/distcache/scache', timeout: 'soon' }, /timeout/);
  refused({ path: '/run/distcache/scache', lifetime: -1 }, /lifetime/);
  refused({ path: '/run/distcache/scache', lifetime: 0 }, /lifetime/);
});

/** Starts a TLS server that keeps its sessions in the cache of `options`. */
async function tlsServer(t, options) {
  const read = (name) => readFileSync(join(setting('TLS_DIR'), name));
  const context = { key: read('key.pem'), cert: read('cert.pem'), sessionIdContext: 'test' };
  const server = tls.createServer({ ...context, secureOptions: constants.SSL_OP_NO_TICKET }, (socket) => {
    socket.on('error', () => {});
    socket.end('hello');
  });
  attach(server, { timeout: PATIENCE, ...options });
  server.on('tlsClientError', () => {});
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  return server;
}

/** Connects and disconnects. Returns whether `session` was resumed, and the session for the next connection. */
function connect(server, version, session) {
  return new Promise((resolve, reject) => {
    const versions = { minVersion: version, maxVersion: version };
    const { port } = server.address();
    const socket = tls.connect({ host: '127.0.0.1', port, rejectUnauthorized: false, session, ...versions });
    let [next, resumed] = [];
    socket.on('secureConnect', () => (resumed = socket.isSessionReused()));
    socket.on('session', (made) => (next = made));
    socket.on('error', reject);
    socket.on('close', () => resolve({ resumed, session: next ?? session }));
    socket.resume();
  });
}

test('a TLS 1.2 session of one server is resumed at another', async (t) => {
  const [one, other] = [await tlsServer(t, realServer()), await tlsServer(t, realServer())];
  const first = await connect(one, 'TLSv1.2');
  assert.equal(first.resumed, false);
  assert.equal((await connect(other, 'TLSv1.2', first.session)).resumed, true);
});

test('a TLS 1.3 session is neither stored nor resumed, and its handshake is a full one', async (t) => {
  const server = await scripted(t, ({ uid, op }) => frame({ uid, op, data: Buffer.from([1]) }));
  const secure = await tlsServer(t, { port: server.port });
  const first = await connect(secure, 'TLSv1.3');
  assert.ok(first.session, 'the client was given a session');
  assert.equal((await connect(secure, 'TLSv1.3', first.session)).resumed, false);
  assert.ok(server.asked.every(({ op }) => op === GET));
});

test('a cache that serves garbage as sessions costs a full handshake each', async (t) => {
  let stored = null;
  const garble = [
    () => randomBytes(150),
    () => randomBytes(32_768),
    () => stored.subarray(0, stored.length - 1),
    () => Buffer.concat([Buffer.from([0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), stored]),
  ];
  let next = null;
  const server = await scripted(t, ({ uid, op, payload }) => {
    if (op === GET) return message({ uid, op, data: next() });
    stored = payload.subarray(8 + payload.readUInt32BE(4));
    return frame({ uid, op, data: Buffer.from([OK]) });
  });
  const secure = await tlsServer(t, { port: server.port });
  for (next of garble) {
    const first = await connect(secure, 'TLSv1.2');
    assert.equal((await connect(secure, 'TLSv1.2', first.session)).resumed, false);
  }
});

test('a client that leaves while the cache is asked costs nobody anything', async (t) => {
  let asked;
  const gets = new Promise((resolve) => (asked = resolve));
  let answer = (request) => void asked(request);
  const server = await scripted(t, (request, socket) =>
    request.op === GET ? answer({ request, socket }) : frame({ ...request, response: 1, data: Buffer.from([OK]) }),
  );
  const secure = await tlsServer(t, { port: server.port });
  const first = await connect(secure, 'TLSv1.2');

  const leaving = tls.connect({
    ...{ host: '127.0.0.1', port: secure.address().port, rejectUnauthorized: false },
    ...{ session: first.session, maxVersion: 'TLSv1.2' },
  });
  leaving.on('error', () => {});
  const { request, socket } = await gets;
  const gone = once(secure, 'tlsClientError');
  leaving.destroy();
  await gone;
  socket.write(frame({ ...request, response: 1, data: Buffer.from([1]) }));
  answer = ({ request }) => frame({ ...request, response: 1, data: Buffer.from([1]) });
  assert.equal((await connect(secure, 'TLSv1.2', first.session)).resumed, false);
});

/** Writes a key file of these bytes, one key for each, in a directory that goes with its test. Returns its path. */
function keyFile(t, keys, mode = 0o600) {
  const directory = mkdtempSync(join(tmpdir(), 'dc-keys-'));
  t.after(() => rmSync(directory, { recursive: true }));
  const path = join(directory, 'keys');
  writeFileSync(path, typeof keys === 'string' ? keys : keys.map((key) => Buffer.alloc(32, key).toString('hex') + '\n').join(''));
  chmodSync(path, mode);
  return path;
}

test('HChaCha20 gives what its draft says', () => {
  const key = Buffer.from(Array.from({ length: 32 }, (_, at) => at));
  const nonce = Buffer.from('000000090000004a0000000031415927', 'hex');
  const expected = '82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc';
  assert.equal(hchacha20(key, nonce).toString('hex'), expected);
});

test('envelopes are those of the other implementations', () => {
  const lines = readFileSync(new URL('../../tests/vectors/seal.tsv', import.meta.url), 'latin1').split('\n');
  const vectors = lines.filter((line) => line !== '' && !line.startsWith('#'));
  assert.ok(vectors.length > 30);
  for (const line of vectors) {
    const [outcome, all, now, ...rest] = line.split('\t');
    const [id, envelope, session] = rest.map((hex) => Buffer.from(hex === '-' ? '' : hex, 'hex'));
    const keys = all.split(',').map((hex) => Buffer.from(hex, 'hex'));
    const opened = new Keys(keys).open(id, Buffer.from(envelope), Number(now));
    if (outcome !== 'opened') {
      assert.deepEqual(opened, { reason: outcome }, line);
      continue;
    }
    assert.deepEqual(opened, { session }, line);
    const again = keys.map((key) => new Keys([key]).seal(id, session, envelope.readUInt32BE(4), envelope.subarray(8, 32)));
    assert.equal(again.filter((made) => made.equals(envelope)).length, 1, line);
  }
});

test('sealed sessions are read with a key only, and only under their own id', async (t) => {
  const lines = [];
  const plain = open(t, realServer());
  const one = open(t, { ...realServer(), sealKeys: keyFile(t, [1]), log: (line) => lines.push(line) });
  const two = open(t, { ...realServer(), sealKeys: keyFile(t, [2, 1]), sealKeysMixed: true });
  const [id, other, session] = [randomBytes(32), randomBytes(32), Buffer.from('the master secret of a session')];

  assert.ok(await one.put(id, session, MINUTE));
  assert.deepEqual(await one.get(id), session);
  assert.deepEqual(await two.get(id), session);
  const envelope = await plain.get(id);
  assert.equal(envelope.length, session.length + OVERHEAD);
  assert.ok(!envelope.includes('secret'));
  assert.ok(await one.put(id, session, MINUTE));
  assert.notDeepEqual((await plain.get(id)).subarray(8, 32), envelope.subarray(8, 32), 'a nonce was used twice');

  assert.ok(await plain.put(other, envelope, MINUTE));
  assert.equal(await one.get(other), null);
  envelope[50] ^= 1;
  assert.ok(await plain.put(id, envelope, MINUTE));
  assert.equal(await one.get(id), null);
  assert.ok(await two.put(id, session, MINUTE));
  assert.equal(await one.get(id), null);
  assert.ok(await plain.put(id, session, MINUTE));
  assert.equal(await one.get(id), null);
  assert.deepEqual(await two.get(id), session, 'mixed');
  assert.deepEqual(one.unopened, { notSealed: 1, unknownKey: 1, forged: 2, expired: 0 });
  assert.deepEqual(two.unopened, { notSealed: 0, unknownKey: 0, forged: 0, expired: 0 });
  assert.equal(plain.unopened, null);
  assert.equal(lines.length, 1, 'at most one line in ten seconds');
  assert.match(lines[0], /did not open/);
  assert.doesNotMatch(lines[0], /not shared/, 'others are shared');
});

test('a session that fits only without its seal is refused', async (t) => {
  const cache = open(t, { ...realServer(), sealKeys: keyFile(t, [1]) });
  const id = randomBytes(32);
  assert.equal(await cache.put(id, Buffer.alloc(32_712 - 32 + 1, 7), MINUTE), false);
  assert.ok(await cache.put(id, Buffer.alloc(32_712 - 32, 7), MINUTE));
  assert.deepEqual(await cache.get(id), Buffer.alloc(32_712 - 32, 7));
});

test('a key file that cannot be used is refused in one line that shows no key', (t) => {
  const line = 'ab'.repeat(32) + '\n';
  for (const [text, mode, why] of [
    ['', 0o600, /there is no key/],
    ['# none\n\n', 0o600, /there is no key/],
    [line + line.slice(1), 0o600, /line 2 is not a key/],
    [line + line.toUpperCase(), 0o600, /line 2 has the same key/],
    [Array.from({ length: 9 }, (_, at) => `0${at}`.repeat(32)).join('\n'), 0o600, /line 9 has key number 9/],
    [line + '#'.repeat(8192), 0o600, /more than 8192 bytes/],
    [line, 0o640, /its mode is 640: chmod 600/],
    [line, 0o604, /its mode is 604/],
  ]) {
    const path = keyFile(t, text, mode);
    const refused = (error) => why.test(error.message) && error.message.includes(path) && !/abab|\n/.test(error.message);
    assert.throws(() => new Cache({ path: '/none', sealKeys: path }), refused, String(why));
  }
  assert.throws(() => new Cache({ path: '/none', sealKeys: '/no/such/keys' }), /cannot use the keys in .*ENOENT/);
});

test('keys follow their file, and a bad file changes nothing', (t) => {
  const [id, session, lines] = [randomBytes(32), randomBytes(100), []];
  const path = keyFile(t, [1]);
  const keys = new SealKeys(path, false, (line) => lines.push(line));
  const [first, second] = [1, 2].map((key) => new Keys([Buffer.alloc(32, key)]));
  // The clock that SealKeys reads, eleven seconds on each time.
  let ahead = 0;
  t.mock.method(performance, 'now', () => (ahead += 11_000) + 1e9);
  assert.deepEqual(first.open(id, keys.seal(id, session, MINUTE)), { session });
  writeFileSync(path, 'nonsense');
  assert.deepEqual(first.open(id, keys.seal(id, session, MINUTE)), { session });
  assert.match(lines.at(-1), /line 1 is not a key.*; the old keys stay in use/);
  writeFileSync(path, Buffer.alloc(32, 2).toString('hex'));
  assert.deepEqual(second.open(id, keys.seal(id, session, MINUTE)), { session });
});
