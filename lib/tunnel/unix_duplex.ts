// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { NO_BYTES } from "../bytes.ts";
import type { Duplex } from "./duplex.ts";

/**
 * Time from when a peer was seen to have closed its connection until that counts as a reset: that
 * of TCP on Linux (FIN-WAIT-2), in which the other side can read what the peer has sent.
 */
const GONE_MS = 60_000;

/**
 * A connection on a Unix socket as a {@linkcode Duplex}. Takes the connection over. There are no
 * resets on Unix sockets: after an `abort`, the peer reads the end.
 */
export function unixDuplex(connection: Deno.UnixConn): Duplex {
  let closed = false;
  let isProbing = false;
  let goneAt: number | undefined;
  /** Only a write tells a peer that has closed from one that has ended; here of no bytes. */
  const probe = async () => {
    isProbing = true;
    try {
      await connection.write(NO_BYTES);
    } catch {
      goneAt ??= performance.now();
    }
    isProbing = false;
  };
  const close = () => {
    if (!closed) connection.close();
    closed = true;
  };
  return {
    read: (buffer) => connection.read(buffer),
    write: (bytes) => connection.write(bytes),
    closeWrite: () => connection.closeWrite(),
    abort: close,
    isReset() {
      if (closed) return false;
      if (goneAt === undefined && !isProbing) void probe();
      return goneAt !== undefined && performance.now() - goneAt >= GONE_MS;
    },
    // deno-lint-ignore require-await
    async [Symbol.asyncDispose]() {
      close();
    },
  };
}
