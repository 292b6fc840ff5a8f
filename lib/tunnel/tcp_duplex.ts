// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { resetTcp, resetTcpAtExit } from "../net/tcp_reset.ts";
import type { Duplex } from "./duplex.ts";

/**
 * A TCP connection as a {@linkcode Duplex}. Takes the connection over; Nagle's algorithm is turned
 * off. `abort` resets it where the system can ({@linkcode resetTcp}), and else closes it; so does
 * the end of the process.
 */
export function tcpDuplex(connection: Deno.TcpConn): Duplex {
  connection.setNoDelay(true);
  connection.setKeepAlive(true);
  resetTcpAtExit(connection, true);
  let closed = false;
  const close = (prepare: (connection: Deno.TcpConn) => void) => {
    if (closed) return;
    closed = true;
    prepare(connection);
    connection.close();
  };
  return {
    read: (buffer) => connection.read(buffer),
    write: (bytes) => connection.write(bytes),
    closeWrite: () => connection.closeWrite(),
    abort: () => close(resetTcp),
    // deno-lint-ignore require-await
    async [Symbol.asyncDispose]() {
      close((connection) => resetTcpAtExit(connection, false));
    },
  };
}
