// A TLS server that keeps its sessions in distcache. Tells each client whether its session was resumed.
//
//     node example.mjs key.pem cert.pem /run/distcache/scache 127.0.0.1:4433

import { readFileSync } from 'node:fs';
import { constants } from 'node:crypto';
import tls from 'node:tls';
import { attach } from './distcache.mjs';

const [key, cert, path, address = '127.0.0.1:4433'] = process.argv.slice(2);
if (!path) {
  console.error('example.mjs: needs KEY CERT SOCKET_OF_DC_CLIENT [ADDRESS:PORT]');
  process.exit(1);
}
const options = {
  key: readFileSync(key),
  cert: readFileSync(cert),
  secureOptions: constants.SSL_OP_NO_TICKET,
  sessionIdContext: 'distcache example',
};
const server = tls.createServer(options, (socket) => {
  // Without a listener, a client that disconnects early would end the process.
  socket.on('error', () => {});
  socket.resume();
  socket.end(`hello, the handshake was ${socket.isSessionReused() ? 'Resumed' : 'Full'}\n`);
});
attach(server, { path, timeout: Number(process.env.DISTCACHE_TIMEOUT_MS ?? 250), log: console.error });

const [host, port] = address.split(':');
server.listen(Number(port), host, () => console.log(`example: listening on ${host}:${server.address().port}`));
