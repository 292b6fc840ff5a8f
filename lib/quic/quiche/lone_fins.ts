// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { NO_BYTES } from "../../bytes.ts";
import type { NativeConnection } from "./native.ts";
import { nothingInFlight } from "./in_flight.ts";

/**
 * Rounds after which everything sent before must have arrived. In each, any loss is detected and
 * repaired.
 */
const MAX_ROUNDS = 4;

/**
 * Packets sent later of which enough arrive to show that one before them is lost: three that are
 * acknowledged (RFC 9002 §6.1.1), and as some of them may be lost too, more than that.
 */
const LATER_PACKETS = 8;

/**
 * Of the time in which an answer comes, what may pass at once. While one of the ends is
 * interrupted, time passes without an answer, and what is received first after it was sent before.
 */
const MAX_STEP_SHARE = 1 / 4;

/** Time after a loss for which more of it is expected. */
const LOSSY_MS = 5_000;

/** FINs handed over at a time: each takes a packet, and all have to leave with one burst. */
const MAX_AT_ONCE = 32;

interface Fin {
  /** Whether the peer's direction had ended before this one was written. */
  readEnded: boolean;
  written: boolean;
  /** Whether it was written before all bytes before it had arrived, and packets lost until then. */
  isEarly: boolean;
  lostBefore: number;
  /** Packets sent and lost when the current round began. */
  sent: number;
  lost: number;
  /** When the peer was heard of, once enough had been sent after it. */
  heardAt: number;
  /** Time for which the peer was heard of since then. */
  heardForMs: number;
  rounds: number;
}

/** State of a connection. */
interface State {
  readonly now: number;
  readonly sent: number;
  readonly lost: number;
  /** When the peer was last heard of. */
  readonly heardAt: number;
  /** Packets were lost lately. */
  readonly lossy: boolean;
  readonly nothingInFlight: boolean;
  /** Time in which what was sent is acknowledged, if it has arrived. */
  readonly answerMs: number;
}

/**
 * Ends of streams (FIN) that travel alone, as all bytes before them have left already.
 *
 * quiche 0.18.0 takes a stream for complete as soon as all its *bytes* are acknowledged, whether or
 * not its FIN was acknowledged, or even sent. Once the peer's direction is over too, it drops the
 * stream. A FIN that was lost is not sent again then, and the peer waits for it for ever. Two rules
 * prevent that:
 * - While the peer's direction goes on, the stream is not read from when the FIN leaves until it
 *   has arrived: a stream that is not read to its end is not dropped. If packets were lost
 *   meanwhile, the FIN is sent once more, because quiche forgets a FIN when bytes of its stream,
 *   other than the last, are lost with it.
 * - When the peer's direction is over, or packets were lost lately, the FIN is sent once all bytes
 *   before it have arrived. The next acknowledgement for the stream is that of the FIN, then. And
 *   no bytes are sent again that would take the FIN along: a peer of this version that has read
 *   those bytes before does not notice it.
 *
 * quiche does not tell what was acknowledged. But nothing may be in flight any more; and on a
 * connection that never pauses, a packet has arrived when others were sent after it, and the peer
 * was heard of for as long as it takes to answer those, without a loss.
 *
 * Can go when quiche keeps a stream until its FIN is acknowledged, which no version up to now does.
 */
export class LoneFins {
  readonly #fins = new Map<number, Fin>();
  #nextLookAt = Infinity;
  #lost = 0;
  #lossyUntil = -Infinity;

  /** Whether there is anything to do. */
  get pending(): boolean {
    return this.#fins.size > 0;
  }

  add(native: NativeConnection, id: number, readEnded: boolean): void {
    const { sent, lost } = native.stats();
    const fresh = { readEnded, written: false, isEarly: false, lostBefore: lost };
    this.#fins.set(id, { ...fresh, ...roundFrom(sent, lost) });
  }

  /**
   * The peer's direction was read to its end: an end that has not been written yet needs more care
   * from now on.
   */
  readEnded(id: number): void {
    const fin = this.#fins.get(id);
    if (fin && !fin.written) fin.readEnded = true;
  }

  delete(id: number): void {
    this.#fins.delete(id);
  }

  clear(): void {
    this.#fins.clear();
  }

  /** Whether the stream must not be read now. */
  holds(id: number): boolean {
    if (this.#fins.size === 0) return false;
    const fin = this.#fins.get(id);
    return fin !== undefined && fin.written && !fin.readEnded;
  }

  /** When to look again, if nothing happens before. */
  get nextLookAt(): number {
    return this.#fins.size > 0 ? this.#nextLookAt : Infinity;
  }

  /**
   * Hands over the FINs whose time has come. To be called when everything before them has been
   * sent.
   *
   * @param idleForMs time for which nothing was heard of the peer
   * @param idleTimeoutMs idle timeout of the connection
   * @param released told of each stream that may be read again
   * @returns whether there is something to send
   */
  advance(
    native: NativeConnection,
    now: number,
    idleForMs: number,
    idleTimeoutMs: number,
    released: (id: number) => void,
  ): boolean {
    const state = this.#look(native, now, idleForMs, idleTimeoutMs);
    let written = 0;
    this.#nextLookAt = Infinity;
    for (const [id, fin] of this.#fins) {
      const isSettled = state.nothingInFlight || arrived(fin, state);
      const mayLeave = fin.written
        ? isSettled && fin.isEarly && fin.lostBefore !== state.lost
        : isSettled || (!fin.readEnded && !state.lossy);
      if (mayLeave && written < MAX_AT_ONCE && write(native, id)) {
        written++;
        const { sent, lost } = state;
        const isEarly = !isSettled;
        Object.assign(fin, { written: true, isEarly, lostBefore: lost, ...roundFrom(sent, lost) });
        if (fin.readEnded) this.#fins.delete(id);
      } else if (fin.written && isSettled && !mayLeave) {
        this.#fins.delete(id);
        released(id);
      } else {
        // Of the others, only what the peer sends tells more.
        const at = !mayLeave ? Infinity : written === MAX_AT_ONCE ? now : now + 5;
        this.#nextLookAt = Math.min(this.#nextLookAt, at);
      }
    }
    return written > 0;
  }

  #look(native: NativeConnection, now: number, idleForMs: number, idleTimeoutMs: number): State {
    const { sent, lost } = native.stats();
    if (lost !== this.#lost) {
      this.#lost = lost;
      this.#lossyUntil = now + LOSSY_MS;
    }
    const isOver = nothingInFlight(native, idleForMs, idleTimeoutMs);
    const answerMs = isOver ? 0 : 2 * (native.pathStats()[0]?.rtt ?? 0) + 50;
    const heardAt = now - idleForMs;
    return {
      now,
      heardAt,
      sent,
      lost,
      lossy: now < this.#lossyUntil,
      nothingInFlight: isOver,
      answerMs,
    };
  }
}

/** A round that begins now. */
function roundFrom(sent: number, lost: number) {
  return { sent, lost, heardAt: Infinity, heardForMs: 0, rounds: 0 };
}

function arrived(fin: Fin, state: State): boolean {
  if (state.sent - fin.sent < LATER_PACKETS) return false;
  if (fin.heardAt === Infinity) fin.heardAt = state.now;
  const stepMs = state.heardAt - fin.heardAt;
  if (stepMs > 0) {
    fin.heardAt = state.heardAt;
    fin.heardForMs += Math.min(stepMs, state.answerMs * MAX_STEP_SHARE);
  }
  if (fin.heardForMs < state.answerMs) return false;
  if (fin.lost === state.lost || ++fin.rounds === MAX_ROUNDS) return true;
  const { sent, lost } = state;
  Object.assign(fin, { sent, lost, heardAt: Infinity, heardForMs: 0 });
  return false;
}

/**
 * False when the congestion window has no room: a FIN has to leave before anything more is
 * received.
 */
function write(native: NativeConnection, id: number): boolean {
  try {
    if (native.streamCapacity(id) === 0) return false;
    native.streamSend(id, NO_BYTES, true);
  } catch {
    // The peer has stopped the stream: no end is owed any more.
  }
  return true;
}
