// Does what its stdin says, one letter at a time, and answers each with a line. Wipes its own buffers, so that copies
// of a session which are found in this process are those of the module, or of Node.
//
//   p  put: reads the session behind the letter      g  get
import fs from 'node:fs';
import { Cache } from '../../bins/node/distcache.mjs';

const [, , path, size] = process.argv;
const cache = new Cache({ path, timeout: 20_000 });
const id = Buffer.from('the id of the session');
const [letter, session] = [Buffer.alloc(1), Buffer.alloc(Number(size))];

function read(buffer) {
  for (let at = 0; at < buffer.length; ) {
    const length = fs.readSync(0, buffer, at, buffer.length - at);
    if (length === 0) process.exit(0);
    at += length;
  }
}

for (;;) {
  read(letter);
  let done;
  if (letter.toString() === 'p') {
    read(session);
    done = await cache.put(id, session, 60_000);
    session.fill(0);
  } else {
    const found = await cache.get(id);
    done = found !== null;
    found?.fill(0);
  }
  // What is due at the end of a write has happened by then.
  await new Promise((resolve) => setImmediate(resolve));
  fs.writeSync(1, done ? 'done\n' : 'failed\n');
}
