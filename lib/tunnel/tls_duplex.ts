// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Duplex } from "./duplex.ts";

/**
 * A connection of TLS as a {@linkcode Duplex}. Takes the connection over.
 *
 * @param reset resets the TCP connection below it: a handshake, or a write that waits for the peer,
 * goes on after `close()` by itself
 */
export function tlsDuplex(connection: Deno.TlsConn, reset: () => void): Duplex {
  let closed = false;
  const close = () => {
    if (!closed) connection.close();
    closed = true;
  };
  return {
    read: (buffer) => connection.read(buffer),
    write: (bytes) => connection.write(bytes),
    closeWrite: () => connection.closeWrite(),
    abort() {
      if (!closed) reset();
      close();
    },
    // deno-lint-ignore require-await
    async [Symbol.asyncDispose]() {
      close();
    },
  };
}
