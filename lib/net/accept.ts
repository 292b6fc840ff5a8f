// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { backoffDelayMs } from "../backoff.ts";
import { messageOf } from "../errors.ts";
import type { Logger } from "../log.ts";
import { sleep } from "../wait.ts";

/** What accepting needs of a listener. */
export interface Listener<Connection> {
  accept(): Promise<Connection>;
}

/** Pauses after failures in a row: they grow from the first to the last. */
const RETRY = { minMs: 10, maxMs: 1_000 };

/**
 * Errors of accepting that concern one client only: a load balancer's health check may end by a
 * reset.
 */
const goneBeforeAccepted = [
  Deno.errors.NotConnected,
  Deno.errors.ConnectionAborted,
  Deno.errors.ConnectionReset,
];

/**
 * Takes connections off a listener until it is closed. A failure, such as for want of file
 * descriptors, is followed by a pause, in which clients wait in the system's queue; it is logged
 * once, and so is its end.
 *
 * @param signal aborts when the listener is closed
 * @param take is handed each connection; must not throw
 */
export async function acceptEach<Connection>(
  listener: Listener<Connection>,
  log: Logger,
  signal: AbortSignal,
  take: (connection: Connection) => void,
): Promise<void> {
  for (let failures = 0; !signal.aborted;) {
    let connection: Connection;
    try {
      connection = await listener.accept();
    } catch (error) {
      if (signal.aborted) return;
      if (goneBeforeAccepted.some((type) => error instanceof type)) {
        log.debug("client disconnected before it was accepted", { error: messageOf(error) });
        continue;
      }
      if (failures === 0) log.error("cannot accept connections", { error: messageOf(error) });
      await sleep(backoffDelayMs(failures++, RETRY), signal);
      continue;
    }
    if (failures > 0) log.info("accepting connections again", { failures });
    failures = 0;
    take(connection);
  }
}
