// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { NativeConnection } from "./native.ts";

/** Rounds after which everything before must have arrived: each is a time in which any loss is noticed and mended. */
const MAX_ROUNDS = 4;

const nothing = new Uint8Array(0);

interface Fin {
  /** Whether the peer's direction had ended before this one. */
  readonly readEnded: boolean;
  written: boolean;
  /** Packets lost, and time, when the current round began. */
  lost: number;
  since: number;
  rounds: number;
}

/**
 * Stream ends whose bytes have all left already, so that FIN goes in a frame of its own.
 *
 * quiche 0.18.0 takes a stream for complete as soon as all its *bytes* are acknowledged, whether or not such a FIN was
 * acknowledged, or even sent. Once the peer's direction is over too, it drops the stream, and the FIN with it if that
 * was lost: the peer would wait for ever. Two rules keep that from happening:
 * - while the peer's direction goes on, FIN is sent at once, and the stream is not read until it has arrived;
 * - when the peer's direction is over, FIN is sent once all bytes before it have arrived, so that the next
 *   acknowledgement for the stream is that of the FIN.
 *
 * quiche does not tell what was acknowledged. Nothing is under way when its next timeout is that of idling; and a time
 * of several round trips without a loss will do on a connection that is never silent.
 */
export class LoneFins {
  readonly #fins = new Map<number, Fin>();

  /** Whether there is anything to do. */
  get pending(): boolean {
    return this.#fins.size > 0;
  }

  add(native: NativeConnection, id: number, readEnded: boolean, now: number): void {
    this.#fins.set(id, {
      readEnded,
      written: false,
      lost: native.stats().lost,
      since: now,
      rounds: 0,
    });
  }

  delete(id: number): void {
    this.#fins.delete(id);
  }

  clear(): void {
    this.#fins.clear();
  }

  /** Whether the stream must not be read now. */
  holds(id: number): boolean {
    return this.#fins.size > 0 && this.#fins.get(id)?.readEnded === false;
  }

  /** When to look again at the latest. */
  nextLookAt(native: NativeConnection): number {
    const [first] = this.#fins.values();
    return first ? first.since + roundMs(native) : Infinity;
  }

  /**
   * Hands over the FINs whose time has come. To be called when everything before them has been sent.
   *
   * @param released told of each stream that may be read again
   * @returns whether there is something to send
   */
  advance(native: NativeConnection, now: number, released: (id: number) => void): boolean {
    const round = roundMs(native);
    const quiet = (native.timeout() ?? 0) > round;
    const { lost } = native.stats();
    let written = false;
    for (const [id, fin] of this.#fins) {
      if (!fin.written && !fin.readEnded) {
        fin.since = now;
        if (!write(native, id)) continue;
        written = fin.written = true;
        fin.lost = lost;
      } else if (quiet || arrived(fin, lost, now, round)) {
        fin.since = now;
        if (fin.readEnded && !write(native, id)) continue;
        written ||= fin.readEnded;
        this.#fins.delete(id);
        released(id);
      }
    }
    return written;
  }
}

/** A time in which a packet is acknowledged, or found lost by a probe (RFC 9002 §6.2). */
function roundMs(native: NativeConnection): number {
  return 4 * (native.pathStats()[0]?.rtt ?? 0) + 50;
}

function arrived(fin: Fin, lost: number, now: number, round: number): boolean {
  if (now - fin.since < round) return false;
  if (fin.lost === lost || ++fin.rounds === MAX_ROUNDS) return true;
  fin.lost = lost;
  fin.since = now;
  return false;
}

/** False when the congestion window has no room: a FIN has to leave before anything more is received. */
function write(native: NativeConnection, id: number): boolean {
  try {
    if (native.streamCapacity(id) === 0) return false;
    native.streamSend(id, nothing, true);
  } catch {
    // The peer has stopped the stream: no end is owed any more.
  }
  return true;
}
