// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- its one line tells the benchmark where it listens

/** The origin of the benchmark, in a process of its own: transfers at one port, HTTP at another. */
import { serveTransfer } from "./transfer.ts";

const hostname = Deno.args[0] ?? "127.0.0.1";
/** As many as may come at once. */
const BACKLOG = 4096;

using listener = Deno.listen({ hostname, port: 0, tcpBacklog: BACKLOG });
const { addr } = Deno.serve(
  { hostname, port: 0, tcpBacklog: BACKLOG, onListen: () => {} },
  () => new Response("ok\n"),
);
console.error(`origin on ${hostname}, transfers ${listener.addr.port}, http ${addr.port}`);
for await (const connection of listener) {
  // A client that left early is no concern of the others.
  serveTransfer(connection).catch(() => {});
}
