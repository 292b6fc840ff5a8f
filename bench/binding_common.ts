// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What both ends of the tunnel on the binding's own classes share. */
import type { QUICStream } from "@matrixai/quic";
import { writeAll } from "../lib/tunnel/duplex.ts";
import { messageOf } from "../lib/errors.ts";
import type { Logger } from "../lib/log.ts";
import type { TlsIdentity } from "../lib/quic/mod.ts";

const READ_BYTES = 64 << 10;

/** The binding's defaults, but for authentication, a timeout, and larger reads, which are in its favour. */
export function bindingConfig(tls: TlsIdentity, alpn: readonly string[]) {
  return {
    ca: tls.ca,
    cert: tls.cert,
    key: tls.key,
    verifyPeer: true,
    applicationProtos: [...alpn],
    keepAliveIntervalTime: 2_000,
    maxIdleTimeout: 5_000,
    readableChunkSize: READ_BYTES,
  };
}

/** Carries bytes between a TCP connection and a stream, both ways, to their ends. Never rejects. */
export async function carry(connection: Deno.TcpConn, stream: QUICStream, log: Logger) {
  using _connection = connection;
  connection.setNoDelay(true);
  const ended = await Promise.allSettled([
    carryIn(connection, stream.writable),
    carryOut(stream.readable, connection),
  ]);
  for (const end of ended) {
    if (end.status === "rejected") log.debug("stream failed", { error: messageOf(end.reason) });
  }
}

async function carryIn(from: Deno.TcpConn, to: QUICStream["writable"]): Promise<void> {
  const writer = to.getWriter();
  const buffer = new Uint8Array(READ_BYTES);
  try {
    for (let n = await from.read(buffer); n !== null; n = await from.read(buffer)) {
      await writer.write(buffer.subarray(0, n));
    }
    await writer.close();
  } catch (error) {
    await writer.abort(error);
    throw error;
  }
}

async function carryOut(from: QUICStream["readable"], to: Deno.TcpConn): Promise<void> {
  const reader = from.getReader();
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      await writeAll(to, next.value);
    }
    await to.closeWrite();
  } catch (error) {
    await reader.cancel(error);
    throw error;
  }
}

/** The binding throws internal errors where nobody can catch them: they are counted by the log, not fatal. */
export function containErrors(log: Logger): void {
  addEventListener("error", (event) => {
    event.preventDefault();
    log.warn("uncaught", { error: messageOf(event.error) });
  });
  addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    log.warn("uncaught", { error: messageOf(event.reason) });
  });
}
