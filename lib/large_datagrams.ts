// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Notices that the largest datagrams of a connection are lost, and only those of its handshake get through. */
import { writeAll } from "./duplex.ts";
import type { Logger } from "./log.ts";
import type { QuicConnection, QuicStream } from "./quic/mod.ts";
import { sleep } from "./sleep.ts";

/** Size of all datagrams of the handshake, which have got through (RFC 9000 §14.1). */
export const HANDSHAKE_DATAGRAM_BYTES = 1200;

/** What to do about it. */
export const LOST_DATAGRAMS_HINT =
  "tunnels hang: the whole way to the other end needs an MTU of 1400; look at VPNs on it";

/** Packets that are lost by no accident. */
const MIN_LOST = 5;

/** Time between two looks at a connection. */
const LOOK_MS = 1_000;

/** Looks after which those before count no more. */
const WINDOW_LOOKS = 10;

/** Looks at which some were lost: a link that was down for a while loses them all at once. */
const MIN_LOSING_LOOKS = 3;

/** Packets of a connection, and their bytes, since it began. */
export interface PacketCounts {
  readonly sentPackets: number;
  readonly receivedPackets: number;
  readonly lostPackets: number;
  readonly sentBytes: number;
  readonly lostBytes: number;
}

/** Looks at what a connection sends, again and again, to tell whether large datagrams are lost. */
export class DatagramWatch {
  #window: PacketCounts;
  #last: PacketCounts;
  /** As they were before the peer was last heard of. */
  #beforeHeard: PacketCounts;
  #looks = 0;
  #losingLooks = 0;
  readonly #minLosingLooks: number;

  constructor(counts: PacketCounts, minLosingLooks = MIN_LOSING_LOOKS) {
    this.#window = this.#last = this.#beforeHeard = counts;
    this.#minLosingLooks = minLosingLooks;
  }

  /**
   * Whether large datagrams have been lost of late: there were some, and more bytes were lost than were not. Small ones
   * alone, such as acknowledgements, have few.
   */
  look(now: PacketCounts): boolean {
    const [before, last] = [this.#window, this.#last];
    if (now.receivedPackets > last.receivedPackets) {
      this.#beforeHeard = last;
      if (now.lostPackets > last.lostPackets) this.#losingLooks++;
    }
    const isOften = this.#losingLooks >= this.#minLosingLooks;
    this.#last = now;
    if (++this.#looks % WINDOW_LOOKS === 0) {
      this.#window = now;
      this.#losingLooks = 0;
    }
    const lost = now.lostPackets - before.lostPackets;
    const lostBytes = now.lostBytes - before.lostBytes;
    const keptBytes = now.sentBytes - before.sentBytes - lostBytes;
    return isOften && lost >= MIN_LOST && lostBytes > lost * HANDSHAKE_DATAGRAM_BYTES &&
      keptBytes < lostBytes;
  }

  /**
   * Whether the peer fell silent when large datagrams were sent for the first time: then not even acknowledgements get
   * through, as they travel together with what was lost.
   */
  fellSilent(now: PacketCounts): boolean {
    const { sentBytes, lostBytes } = this.#beforeHeard;
    const unheardBytes = now.sentBytes - sentBytes;
    return unheardBytes > MIN_LOST * HANDSHAKE_DATAGRAM_BYTES &&
      unheardBytes > sentBytes - lostBytes;
  }
}

/** Logs it, once, when large datagrams of a connection are lost. Resolves when it has ended; never rejects. */
export async function watchDatagrams(
  connection: QuicConnection,
  log: Logger,
  fields: Readonly<Record<string, unknown>>,
): Promise<void> {
  const ended = new AbortController();
  void connection.closed.then(() => ended.abort());
  const watch = new DatagramWatch(connection.stats());
  const line = { ...fields, largerThan: HANDSHAKE_DATAGRAM_BYTES, hint: LOST_DATAGRAMS_HINT };
  while (!ended.signal.aborted) {
    await sleep(LOOK_MS, ended.signal);
    if (!watch.look(connection.stats())) continue;
    log.error("large datagrams are lost", line);
    await connection.closed;
    return;
  }
  if (connection.closeInfo?.by === "timeout" && watch.fellSilent(connection.stats())) {
    log.warn("large datagrams may be lost", line);
  }
}

/** Enough for some of the largest datagrams that are sent, and less than a new connection may have under way. */
const PROBE_BYTES = 4096;

const PROBE_LOOK_MS = 100;
const PROBE_TIMEOUT_MS = 8_000;

/** Time after which something small is sent: what was sent before it counts as lost once that has arrived. */
const NUDGE_MS = 1_000;

/** In a longer silence, the timer for what was lost is as far off as that of idling, and no sign of rest. */
const MAX_SILENCE_MS = 1_500;

/**
 * Sends large datagrams, on a unidirectional stream, and waits for what becomes of them. Takes up to 8 s; never rejects.
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
    await writeAll(stream, new Uint8Array(PROBE_BYTES));
    const arrive = await outcome(connection, stream);
    if (arrive) await stream.finish(new Uint8Array(1));
    else stream.reset(0);
    return arrive;
  } catch {
    return hasFallenSilent(connection) ? false : undefined;
  }
}

async function outcome(
  connection: QuicConnection,
  stream: QuicStream,
): Promise<boolean | undefined> {
  const watch = new DatagramWatch(connection.stats(), 1);
  const giveUpAt = performance.now() + PROBE_TIMEOUT_MS;
  let nudgeAt = performance.now() + NUDGE_MS;
  for (let now; (now = performance.now()) < giveUpAt;) {
    await connection.settled(PROBE_LOOK_MS);
    if (connection.closeInfo) break;
    const isSettled = performance.now() < now + PROBE_LOOK_MS;
    if (isSettled && connection.silentForMs < MAX_SILENCE_MS) return true;
    if (watch.look(connection.stats())) return false;
    if (now < nudgeAt) continue;
    nudgeAt = now + NUDGE_MS;
    await stream.write(new Uint8Array(1));
  }
  return hasFallenSilent(connection) ? false : undefined;
}

/** Nothing but large datagrams can have done that to a connection that has just been made. */
function hasFallenSilent({ closeInfo }: QuicConnection): boolean {
  return closeInfo?.by === "timeout";
}
