// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Finds out whether the largest datagrams of a connection get through, or only those of its handshake. */
import { speaksQrht } from "./dialect.ts";
import { writeAll } from "./duplex.ts";
import type { Logger } from "./log.ts";
import type { QuicConnection } from "./quic/mod.ts";

/** Enough for some of the largest datagrams that are sent. */
const PROBE_BYTES = 4096;

/** Size of all datagrams of the handshake, which have got through (RFC 9000 §14.1). */
export const HANDSHAKE_DATAGRAM_BYTES = 1200;

/** What to do about it. */
export const LOST_DATAGRAMS_HINT =
  "tunnels will hang: the whole way to the other end needs an MTU of 1400; look at VPNs on it";

/** Lost packets from which on it is no accident. */
const MIN_LOST = 5;

const LOOK_MS = 100;
const TIMEOUT_MS = 4_000;

/** Packets of a connection, and their bytes, since it began. */
export interface PacketCounts {
  readonly sentPackets: number;
  readonly lostPackets: number;
  readonly sentBytes: number;
  readonly lostBytes: number;
}

/**
 * Whether the packets between two looks say that large ones are lost: there were some, and more bytes were lost than were
 * not. Small packets alone, as of acknowledgements, make few of them.
 */
export function losesLarge(before: PacketCounts, now: PacketCounts): boolean {
  const lost = now.lostPackets - before.lostPackets;
  const lostBytes = now.lostBytes - before.lostBytes;
  const keptBytes = now.sentBytes - before.sentBytes - lostBytes;
  return lost >= MIN_LOST && lostBytes > lost * HANDSHAKE_DATAGRAM_BYTES && keptBytes < lostBytes;
}

/**
 * Sends large datagrams, on a stream of which the peer reads and forgets everything (docs/protocol.md, "Control
 * streams"), and waits for what becomes of them. Takes up to 4 s; never rejects.
 *
 * @returns `false` when they are lost; `undefined` when that cannot be told, as in the raw dialect
 */
export async function largeDatagramsArrive(
  connection: QuicConnection,
): Promise<boolean | undefined> {
  if (!speaksQrht(connection.alpn)) return undefined;
  try {
    const stream = connection.openUniStream();
    if (!stream) return undefined;
    const before = connection.stats();
    await writeAll(stream, new Uint8Array(PROBE_BYTES));
    const arrive = await outcome(connection, before);
    if (arrive) await stream.finish(new Uint8Array(1));
    else stream.reset(0);
    return arrive;
  } catch {
    // The connection has ended.
    return undefined;
  }
}

async function outcome(
  connection: QuicConnection,
  before: PacketCounts,
): Promise<boolean | undefined> {
  const giveUpAt = performance.now() + TIMEOUT_MS;
  while (!connection.closeInfo && performance.now() < giveUpAt) {
    const lookAt = performance.now() + LOOK_MS;
    await connection.settled(LOOK_MS);
    if (!connection.closeInfo && performance.now() < lookAt) return true;
    if (losesLarge(before, connection.stats())) return false;
  }
  return undefined;
}

/** Logs it when the largest datagrams of a connection are lost: tunnels would hang. Never rejects. */
export async function reportLostDatagrams(
  connection: QuicConnection,
  log: Logger,
  fields: Readonly<Record<string, unknown>>,
): Promise<void> {
  if (await largeDatagramsArrive(connection) !== false) return;
  log.error("large datagrams are lost", {
    ...fields,
    largerThan: HANDSHAKE_DATAGRAM_BYTES,
    hint: LOST_DATAGRAMS_HINT,
  });
}
