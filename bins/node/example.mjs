// A TLS server that keeps its sessions in distcache, and says on each connection how its handshake went.
//
//     node example.mjs key.pem cert.pem /run/distcache/scache 127.0.0.1:4433

import { readFileSync } from 'node:fs';
import { constants } from 'node:crypto';
import tls from 'node:tls';
import { attach } from './distcache.mjs';

const [key, cert, path, address = '127.0.0.1:4433'] = process.argv.slice(2);
if (!path) {
  console.error('example.mjs: needs a key, a certificate, the path of dc_client, and where to listen');
  process.exit(1);
}
const options = {
  key: readFileSync(key),
  cert: readFileSync(cert),
  secureOptions: constants.SSL_OP_NO_TICKET,
  sessionIdContext: 'distcache example',
};
const server = tls.createServer(options, (socket) => {
  // A client that leaves in the middle is no reason to end.
  socket.on('error', () => {});
  socket.resume();
  socket.end(`hello, the handshake was ${socket.isSessionReused() ? 'Resumed' : 'Full'}\n`);
});
attach(server, { path, timeout: Number(process.env.DISTCACHE_TIMEOUT_MS ?? 250), log: console.error });

const [host, port] = address.split(':');
server.listen(Number(port), host, () => console.log(`example: listening on ${host}:${server.address().port}`));
