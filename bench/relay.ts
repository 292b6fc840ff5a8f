// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- its one line tells the benchmark where it listens

/**
 * The least that a program of Deno's can do between a client and its target: it passes bytes on by TCP, with nothing else.
 * Two of them, one behind the other, are the limit for a server and an agent.
 *
 * With a port as its argument it connects each client there; with `connect`, to where the client asks with CONNECT.
 * A second argument is a folder with certificates: what is between two of them is TLS then.
 */
import { writeAll } from "../lib/tunnel/duplex.ts";

const BACKLOG = 4096;
const BUFFER_BYTES = 64 << 10;
const OK = new TextEncoder().encode("HTTP/1.1 200 OK\r\n\r\n");
const decoder = new TextDecoder();

type Connection = Deno.TcpConn | Deno.TlsConn;

const [mode, certificates] = Deno.args;
const fixedPort = mode === "connect" ? undefined : Number(mode);
const hostname = "127.0.0.1";
const read = (file: string) => Deno.readTextFileSync(`${certificates}/${file}`);
const secureServer = certificates !== undefined && fixedPort !== undefined
  ? { hostname: "quic-tunnel-server", caCerts: [read("ca.pem")] }
  : undefined;

async function pass(from: Connection, to: Connection): Promise<void> {
  const buffer = new Uint8Array(BUFFER_BYTES);
  for (let n = await from.read(buffer); n !== null; n = await from.read(buffer)) {
    await writeAll(to, buffer.subarray(0, n));
  }
  await to.closeWrite();
}

/** The clients here are the benchmark's own, whose heads come in one piece. */
async function askedPort(client: Connection): Promise<number> {
  const buffer = new Uint8Array(4096);
  const n = await client.read(buffer);
  return Number(/^CONNECT [\d.]+:(\d+) /.exec(decoder.decode(buffer.subarray(0, n ?? 0)))?.[1]);
}

async function connect(port: number): Promise<Connection> {
  const tcp = await Deno.connect({ hostname, port });
  tcp.setNoDelay(true);
  return secureServer ? await Deno.startTls(tcp, secureServer) : tcp;
}

async function serve(client: Connection): Promise<void> {
  using _client = client;
  const port = fixedPort ?? await askedPort(client);
  using target = await connect(port);
  // Deno does it for connections of TLS.
  if ("setNoDelay" in client) client.setNoDelay(true);
  if (fixedPort === undefined) await writeAll(client, OK);
  await Promise.allSettled([pass(client, target), pass(target, client)]);
}

function listen(): Deno.Listener<Connection, Deno.NetAddr> {
  const options = { hostname, port: 0, tcpBacklog: BACKLOG };
  return certificates !== undefined && fixedPort === undefined
    ? Deno.listenTls({ ...options, cert: read("server.pem"), key: read("server.key") })
    : Deno.listen(options);
}

using listener = listen();
console.error(`relay on ${listener.addr.port}`);
for await (const client of listener) serve(client).catch(() => {});
