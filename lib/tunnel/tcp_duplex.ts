// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { setAcceptedOptions } from "../net/tcp_listener.ts";
import { setTcpKeepalive } from "../net/tcp_keepalive.ts";
import {
  isTcpReset,
  learnDescriptor,
  resetTcp,
  resetTcpAtExit,
  setNoDelay,
} from "../net/tcp_reset.ts";
import type { Duplex } from "./duplex.ts";

/**
 * A TCP connection as a {@linkcode Duplex}. Takes the connection over; Nagle's algorithm is turned
 * off. `abort` resets it where the system can ({@linkcode resetTcp}), and else closes it; so does
 * the end of the process.
 *
 * @param keepaliveMs idle time until a keepalive probe, 0 for no probes
 */
export function tcpDuplex(connection: Deno.TcpConn, keepaliveMs = 0): Duplex {
  setNoDelay(connection);
  setTcpKeepalive(connection, keepaliveMs);
  resetTcpAtExit(connection, true);
  return duplexOf(connection);
}

/**
 * The same for all connections of a listener, whose options are set on it where the system can.
 *
 * @param keepaliveMs see {@linkcode tcpDuplex}
 */
export function acceptedTcpDuplexes(
  listener: Deno.TcpListener,
  keepaliveMs: number,
): (connection: Deno.TcpConn) => Duplex {
  if (!setAcceptedOptions(listener, keepaliveMs)) {
    return (connection) => tcpDuplex(connection, keepaliveMs);
  }
  return (connection) => {
    learnDescriptor(connection);
    return duplexOf(connection);
  };
}

function duplexOf(connection: Deno.TcpConn): Duplex {
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
    isReset: () => !closed && isTcpReset(connection),
    // deno-lint-ignore require-await
    async [Symbol.asyncDispose]() {
      close((connection) => resetTcpAtExit(connection, false));
    },
  };
}
