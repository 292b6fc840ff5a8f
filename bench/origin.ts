// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- its one line tells the benchmark where it listens

/**
 * The origin of the benchmark, in a process of its own. One port has small requests by HTTP and transfers, for those
 * that connect all clients to one target.
 */
import { answerGets } from "./http_server.ts";
import { serveTransfer } from "./transfer.ts";

/** As many as may come at once. */
const BACKLOG = 4096;
const FIRST_BYTES = 1024;
/** The "G" of "GET"; a transfer begins with the sign of a number below 2^56. */
const GET = 0x47;

async function serve(connection: Deno.TcpConn): Promise<void> {
  using _connection = connection;
  const buffer = new Uint8Array(FIRST_BYTES);
  const n = await connection.read(buffer);
  if (n === null) return;
  await (buffer[0] === GET ? answerGets : serveTransfer)(connection, buffer.subarray(0, n));
}

const [hostname = "127.0.0.1", port = "0"] = Deno.args;
using listener = Deno.listen({ hostname, port: Number(port), tcpBacklog: BACKLOG });
console.error(`origin on ${hostname}:${listener.addr.port}`);
for await (const connection of listener) {
  // A client that left early is no concern of the others.
  serve(connection).catch(() => {});
}
