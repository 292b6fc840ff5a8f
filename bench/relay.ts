// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- its one line tells the benchmark where it listens

/**
 * The least that a program of Deno's can do between a client and its target: it passes bytes on by TCP, with nothing else.
 * Two of them, one behind the other, are the limit for a server and an agent.
 *
 * With a port as its argument it connects each client there; without, to where the client asks with CONNECT.
 */
import { writeAll } from "../lib/tunnel/duplex.ts";

const BACKLOG = 4096;
const BUFFER_BYTES = 64 << 10;
const OK = new TextEncoder().encode("HTTP/1.1 200 OK\r\n\r\n");
const decoder = new TextDecoder();

async function pass(from: Deno.TcpConn, to: Deno.TcpConn): Promise<void> {
  const buffer = new Uint8Array(BUFFER_BYTES);
  for (let n = await from.read(buffer); n !== null; n = await from.read(buffer)) {
    await writeAll(to, buffer.subarray(0, n));
  }
  await to.closeWrite();
}

/** The clients here are the benchmark's own, whose heads come in one piece. */
async function askedPort(client: Deno.TcpConn): Promise<number> {
  const buffer = new Uint8Array(4096);
  const n = await client.read(buffer);
  return Number(/^CONNECT [\d.]+:(\d+) /.exec(decoder.decode(buffer.subarray(0, n ?? 0)))?.[1]);
}

async function serve(client: Deno.TcpConn, fixedPort: number | undefined): Promise<void> {
  using _client = client;
  const port = fixedPort ?? await askedPort(client);
  using target = await Deno.connect({ hostname: "127.0.0.1", port });
  for (const connection of [client, target]) connection.setNoDelay(true);
  if (fixedPort === undefined) await writeAll(client, OK);
  await Promise.allSettled([pass(client, target), pass(target, client)]);
}

const fixedPort = Deno.args[0] === undefined ? undefined : Number(Deno.args[0]);
using listener = Deno.listen({ hostname: "127.0.0.1", port: 0, tcpBacklog: BACKLOG });
console.error(`relay on ${listener.addr.port}`);
for await (const client of listener) serve(client, fixedPort).catch(() => {});
