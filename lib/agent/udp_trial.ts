// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../net/authority.ts";
import { CloseCode } from "../qrht/codes.ts";
import { startControl } from "../qrht/control.ts";
import type { Hello } from "../qrht/messages.ts";
import { ConnectionClosedError } from "../quic/mod.ts";
import { sleep } from "../wait.ts";
import { type ConnectOptions, openConnection } from "./open_connection.ts";

/** Longest silence of a server, which answers PINGs more often, at the end of a trial. */
const MAX_SILENCE_MS = 2_000;

/** Close reason, which the server logs. */
const TRIED = "UDP was tried, and works";

/**
 * Finds out whether a server can be used over UDP: a connection that gets no tunnels has to last for
 * a time, in which the size of its datagrams grows to what the path carries. In the raw dialect,
 * which cannot say that it wants no tunnels, a handshake is enough.
 *
 * @param lastsMs the time
 * @throws {ConnectionClosedError} when it did not last
 * @throws the signal's reason when it aborts first
 */
export async function tryUdp(
  address: Authority,
  options: ConnectOptions,
  hello: Pick<Hello, "program" | "name">,
  lastsMs: number,
  signal: AbortSignal,
): Promise<void> {
  // Without stream credit, the server can open no tunnels.
  const { connection, close } = await openConnection(
    address,
    { ...options, maxStreams: 0 },
    signal,
  );
  try {
    const control = startControl(connection, hello, { hello() {}, drain() {}, violated() {} });
    if (control) {
      control.drain();
      const over = new AbortController();
      await Promise.race([
        connection.closed,
        sleep(lastsMs, AbortSignal.any([signal, over.signal])),
      ]);
      over.abort();
    }
    signal.throwIfAborted();
    if (connection.closeInfo) throw new ConnectionClosedError(connection.closeInfo);
    const { silentForMs } = connection;
    if (silentForMs < MAX_SILENCE_MS) return;
    const reason = `no packet from the peer for ${Math.round(silentForMs)} ms`;
    throw new ConnectionClosedError({ by: "timeout", application: false, code: 0, reason });
  } finally {
    await close(CloseCode.AgentLeaves, TRIED);
  }
}
