// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- its one line tells the benchmark where it listens

/** The origin of the benchmark's downloads, in a process of its own. */
import { serveTransfer } from "./transfer.ts";

using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
console.error(`origin on 127.0.0.1:${listener.addr.port}`);
for await (const connection of listener) {
  // A client that left early is no concern of the others.
  serveTransfer(connection).catch(() => {});
}
