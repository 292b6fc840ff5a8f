// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Tells when the way to a peer carries none but the smallest datagrams, with which a tunnel is slower than it could be. */
import { writeAll } from "../tunnel/duplex.ts";
import type { Logger } from "../log.ts";
import { BASE_DATAGRAM_BYTES, type QuicConnection } from "../quic/mod.ts";

/** What to do about it. */
export const LOST_DATAGRAMS_HINT =
  "tunnels are slower than need be: let the whole way to the other end have an MTU of 1400; look at VPNs on it";

/** Logs it, once, when large datagrams of a connection turn out to be lost. */
export function logLargeDatagrams(
  connection: QuicConnection,
  log: Logger,
  fields: Readonly<Record<string, unknown>>,
): void {
  connection.onSmaller = () => {
    const { datagramBytes } = connection;
    if (datagramBytes >= BASE_DATAGRAM_BYTES) return;
    log.warn("large datagrams are lost", {
      ...fields,
      largerThan: datagramBytes,
      hint: LOST_DATAGRAMS_HINT,
    });
    connection.onSmaller = undefined;
  };
}

/** Enough for some of the largest datagrams that are sent unasked, and less than a new connection may have under way. */
const PROBE_BYTES = 4096;

/** Tries, of which one without a loss is enough, all within the window of such a stream that nobody reads. */
const PROBES = 3;
const PROBE_TIMEOUT_MS = 2_000;

/**
 * Sends large datagrams, on a unidirectional stream, and waits for what becomes of them. Takes up to 6 s; never rejects.
 * Only for a connection on which nothing else is under way and whose peer knows its control stream: it takes the first
 * stream that arrives for that, and ignores others (docs/protocol.md, "Control streams").
 *
 * @returns `undefined` when it cannot be told
 */
export async function largeDatagramsArrive(
  connection: QuicConnection,
): Promise<boolean | undefined> {
  try {
    const stream = connection.openUniStream();
    if (!stream) return undefined;
    let arrive = false;
    for (let i = 0; i < PROBES && !arrive; i++) {
      const { lostPackets } = connection.stats();
      await writeAll(stream, new Uint8Array(PROBE_BYTES));
      await connection.settled(PROBE_TIMEOUT_MS);
      if (connection.closeInfo) return undefined;
      if (connection.datagramBytes < BASE_DATAGRAM_BYTES) break;
      arrive = connection.stats().lostPackets === lostPackets;
    }
    stream.reset(0);
    return arrive;
  } catch {
    return undefined;
  }
}
