// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Duplex } from "./duplex.ts";

/**
 * A connection on a Unix socket as a {@linkcode Duplex}. Takes the connection over. There are no
 * resets on Unix sockets: after an `abort`, the peer reads the end.
 */
export function unixDuplex(connection: Deno.UnixConn): Duplex {
  let closed = false;
  const close = () => {
    if (!closed) connection.close();
    closed = true;
  };
  return {
    read: (buffer) => connection.read(buffer),
    write: (bytes) => connection.write(bytes),
    closeWrite: () => connection.closeWrite(),
    abort: close,
    // deno-lint-ignore require-await
    async [Symbol.asyncDispose]() {
      close();
    },
  };
}
