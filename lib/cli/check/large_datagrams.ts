// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Whether the path to a peer carries large datagrams. */
import { BASE_DATAGRAM_BYTES, type QuicConnection } from "../../quic/mod.ts";
import { writeAll } from "../../tunnel/duplex.ts";

/**
 * Enough for some datagrams of the largest size, and less than a new connection may have in flight.
 */
const PROBE_BYTES = 4096;

/**
 * One without a loss is enough. All together fit in the window of a unidirectional stream that
 * nobody reads.
 */
const PROBES = 3;
const PROBE_TIMEOUT_MS = 2_000;

/**
 * Sends large datagrams on a unidirectional stream, and waits until they are acknowledged or lost.
 * Takes up to 6 s; never rejects. Only for a connection that carries nothing else, and whose peer
 * has its control stream already: it takes the first unidirectional stream for that, and ignores
 * others (docs/protocol.md, "Control streams").
 *
 * @returns `undefined` when the connection ends first, or gives no stream
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
      if (connection.path.datagramBytes < BASE_DATAGRAM_BYTES) break;
      arrive = connection.stats().lostPackets === lostPackets;
    }
    stream.reset(0);
    return arrive;
  } catch {
    return undefined;
  }
}
