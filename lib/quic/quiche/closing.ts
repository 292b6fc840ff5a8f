// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { CloseInfo } from "../errors.ts";
import { type NativeConnection, Shutdown } from "./native.ts";

const MAX_REASON_BYTES = 256;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** How a connection was closed, as quiche has it; undefined when neither end has closed it. */
export function closeInfoOf(
  native: Pick<NativeConnection, "peerError" | "localError">,
): CloseInfo | undefined {
  const peer = native.peerError();
  const error = peer ?? native.localError();
  if (!error) return undefined;
  return {
    by: peer ? "peer" : "local",
    application: error.isApp,
    code: error.errorCode,
    reason: decoder.decode(error.reason),
  };
}

/** Has quiche send CONNECTION_CLOSE, unless it has done so already. */
export function closeNative(
  native: Pick<NativeConnection, "close">,
  application: boolean,
  code: number,
  reason: string,
): void {
  try {
    native.close(application, code, encoder.encode(reason).subarray(0, MAX_REASON_BYTES));
  } catch {
    // Closed already.
  }
}

/**
 * Frees what the stream of a connection that has ended still holds: bytes that nobody reads, and
 * those that were to be sent. quiche keeps both as long as the connection object, and that lives
 * until its garbage is collected, whose size JavaScript does not know.
 */
export function freeStream(
  native: Pick<NativeConnection, "streamShutdown">,
  id: number,
): void {
  for (const direction of [Shutdown.Read, Shutdown.Write]) {
    try {
      native.streamShutdown(id, direction, 0);
    } catch {
      // It does not go this way, or quiche has dropped it.
    }
  }
}
