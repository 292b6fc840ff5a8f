// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { MAX_TIMER_MS, sleep } from "../wait.ts";
import type { Duplex } from "./duplex.ts";
import { onAbort } from "../on_abort.ts";
import { ReadBuffer } from "./read_buffer.ts";

/** How long a tunnel may be silent, or stuck, before it is given up. */
export interface TunnelTimeouts {
  /** Time without a byte, in either direction, when one of them has ended; 0 for any. */
  readonly halfOpenTimeoutMs: number;
  /** Time without a byte, in either direction, at all; 0 for any. */
  readonly idleTimeoutMs: number;
  /** Time in which a side takes none of the bytes, or not the end, that wait for it; 0 for any. */
  readonly writeTimeoutMs: number;
}

export interface PipeOptions {
  /** @default {0 for each} */
  readonly timeouts?: Partial<TunnelTimeouts>;
  /**
   * Timeouts count from when this has settled: what is still being connected has bounds of its own.
   */
  readonly connected?: Promise<unknown>;
  /** Aborts the pair. */
  readonly signal?: AbortSignal;
  /** Is given the pipe when it begins. */
  readonly watch?: (pipe: PipeUnderWay) => void;
  /** Application error code that the carriers are aborted with. @default {0} */
  readonly abortCode?: number;
  /**
   * Tells which side may be abandoned, if one: its peer ends what it sends, and then neither takes
   * nor refuses what still comes. Such a side counts as silent ({@linkcode TunnelTimeouts}
   * `halfOpenTimeoutMs`) once it has taken no byte for {@linkcode ABANDONED_MS} since its end.
   */
  readonly mayBeAbandoned?: () => Side | undefined;
}

/** Bytes that a pipe has carried so far. */
export interface Carried {
  /** Bytes that went from `a` to `b`. */
  readonly aToB: number;
  /** Bytes that went from `b` to `a`. */
  readonly bToA: number;
}

/** A pipe that has not ended. */
export interface PipeUnderWay extends Carried {
  /**
   * Aborts the pair if nothing has moved for a time, in milliseconds, and neither bytes nor an end
   * wait to be taken. When `a` was the last to send, it is likely to wait for an answer, and the
   * time is {@linkcode ANSWER_FACTOR} times as long.
   */
  abortIfSilent(ms: number): void;
}

/** How a pair of carriers ended. */
export interface PipeResult extends Carried {
  /**
   * - `end`: both directions were delivered up to their end
   * - `error`: a carrier failed, or was reset by its peer
   * - `half-open`: one direction had ended, and the other was silent, or stuck, for too long
   * - `idle`: both directions were silent for too long
   * - `write-timeout`: a carrier took nothing of what waited for it for too long
   * - `aborted`: the signal was aborted, or {@linkcode PipeUnderWay} `abortIfSilent` was called
   *
   * In all cases but `end` both carriers were aborted, or had failed before: neither peer is told
   * that it has got everything, unless it has.
   */
  readonly reason: "end" | "error" | "half-open" | "idle" | "write-timeout" | "aborted";
  /**
   * The side that ended first (`end`), failed first (`error`), or was waited for (`half-open`,
   * `write-timeout`).
   */
  readonly by?: Side;
  /** What it failed with, or the signal's reason. */
  readonly error?: unknown;
}

/** One of the two carriers of a pipe. */
export type Side = "a" | "b";
type End = Pick<PipeResult, "reason" | "by" | "error">;

const NO_TIMEOUTS: Partial<TunnelTimeouts> = {};

/**
 * Time for which a side whose bytes are dropped may continue to send after everything else is done.
 */
const LINGER_MS = 1_000;

/**
 * Pause after each read whose bytes are dropped: a side that always has more would keep the event
 * loop for itself.
 */
const DROP_PAUSE_MS = 1;

/** Reads in a row whose bytes were there, and taken, at once, until other tunnels have their turn. */
const MAX_AT_ONCE = 64;

/** Interval at which a side that has ended is asked whether it has been reset since. */
const RESET_CHECK_MS = 5_000;

/**
 * Time in which a side that may be abandoned must take some of the bytes that wait for it. Long
 * enough for any loss that a connection survives: the others of its peer stand meanwhile.
 */
export const ABANDONED_MS = 5_000;

/** See {@linkcode PipeUnderWay} `abortIfSilent`. */
const ANSWER_FACTOR = 10;

/** Head start of bytes before the reset that follows them, which could overtake and drop them. */
const DELIVERY_MS = 100;

/**
 * Copies bytes between two carriers, both ways, until both directions have ended; then closes both.
 * Never rejects.
 *
 * - The end of `a`'s bytes closes the writing direction of `b`; the other direction goes on.
 * - A failed read, such as a reset by the peer, aborts both, once the bytes before it have got
 *   through.
 * - A failed write ends its direction alone: a peer that takes no more bytes may still have an
 *   answer under way. The side they come from is told to stop, or its bytes are dropped.
 * - A side that has ended, and is reset by its peer later, aborts both within 5 s.
 * - A side that has ended, and that its peer may have abandoned, aborts both when it takes no bytes.
 * - A pipe that is idle or stuck for longer than its timeouts allow is aborted. Every byte read or
 *   written restarts them.
 *
 * @example
 * ```ts
 * import { tcpDuplex } from "./tcp_duplex.ts";
 * import { pipeDuplex } from "./pipe.ts";
 *
 * export async function relay(client: Deno.TcpConn, target: Deno.TcpConn): Promise<void> {
 *   const { aToB, bToA, reason, by } = await pipeDuplex(tcpDuplex(client), tcpDuplex(target), {
 *     timeouts: { idleTimeoutMs: 60_000 },
 *   });
 *   console.log(`${aToB} bytes sent, ${bToA} received, ${reason} by ${by}`);
 * }
 * ```
 */
export function pipeDuplex(a: Duplex, b: Duplex, options: PipeOptions = {}): Promise<PipeResult> {
  const { signal, connected, watch } = options;
  return new Pipe(a, b, options).run(signal, connected, watch);
}

class Direction {
  bytes = 0;
  /** Whether the reader has reached the end, or the writer accepts no more. */
  ended = false;
  /** Whether it has ended, and the writer knows. */
  over = false;
  /** Whether a write, or the end, is pending. */
  writing = false;
  /** When a byte was last read or written. */
  movedAt = performance.now();

  constructor(
    readonly from: Duplex,
    readonly to: Duplex,
    readonly fromSide: Side,
    readonly toSide: Side,
  ) {}

  moved(): void {
    this.movedAt = performance.now();
  }
}

class Pipe implements PipeUnderWay {
  readonly #timeouts: Partial<TunnelTimeouts>;
  readonly #abortCode: number | undefined;
  readonly #mayBeAbandoned: PipeOptions["mayBeAbandoned"];
  readonly #aToB: Direction;
  readonly #bToA: Direction;
  /** Ends the dropping of bytes, of which there is some while this is set. */
  #lingered: PromiseWithResolvers<void> | undefined;
  #isConnected: boolean;
  /** How the pipe ended, when both carriers were aborted. */
  #end: End | undefined;
  /** The first failure, when the other direction continues. */
  #failure: End | undefined;
  #firstEnd: Side | undefined;
  #isDone = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #timerAt = Infinity;

  constructor(a: Duplex, b: Duplex, options: PipeOptions) {
    this.#timeouts = options.timeouts ?? NO_TIMEOUTS;
    this.#abortCode = options.abortCode;
    this.#mayBeAbandoned = options.mayBeAbandoned;
    this.#aToB = new Direction(a, b, "a", "b");
    this.#bToA = new Direction(b, a, "b", "a");
    this.#isConnected = options.connected === undefined;
  }

  get aToB(): number {
    return this.#aToB.bytes;
  }

  get bToA(): number {
    return this.#bToA.bytes;
  }

  abortIfSilent(ms: number): void {
    const isBusy = this.#isDone || !this.#isConnected || this.#aToB.writing || this.#bToA.writing;
    const awaitsAnswer = this.#aToB.movedAt > this.#bToA.movedAt;
    const enoughMs = awaitsAnswer ? ANSWER_FACTOR * ms : ms;
    if (!isBusy && performance.now() - this.#movedAt >= enoughMs) {
      this.#abort({ reason: "aborted" });
    }
  }

  async run(
    signal: AbortSignal | undefined,
    connected: Promise<unknown> | undefined,
    watch: PipeOptions["watch"],
  ): Promise<PipeResult> {
    watch?.(this);
    const onConnected = () => this.#connected();
    connected?.then(onConnected, onConnected);
    this.#arm();
    const abort = () => this.#abort({ reason: "aborted", error: signal?.reason });
    const stopListening = signal && onAbort(signal, abort);
    if (signal?.aborted) abort();
    const back = this.#carry(this.#bToA);
    await this.#carry(this.#aToB);
    await back;
    this.#isDone = true;
    stopListening?.();
    clearTimeout(this.#timer);
    // One that fails has failed before, and the result says so.
    await Promise.allSettled(
      [this.#aToB, this.#bToA].map(({ from }) => from[Symbol.asyncDispose]()),
    );
    const ended = this.#end ?? this.#failure ?? { reason: "end", by: this.#firstEnd! };
    return { aToB: this.aToB, bToA: this.bToA, ...ended };
  }

  async #carry(direction: Direction): Promise<void> {
    const { from, to, fromSide } = direction;
    const buffer = new ReadBuffer();
    for (let atOnce = 0;; atOnce++) {
      // Both may always do their part at once, and so keep the event loop for themselves.
      if (atOnce === MAX_AT_ONCE) {
        await sleep(0);
        atOnce = 0;
      }
      let n: number | null;
      try {
        const read = from.read(buffer.bytes);
        if (read instanceof Promise) atOnce = 0;
        n = read instanceof Promise ? await read : read;
      } catch (error) {
        return await this.#readFailed(direction, error);
      }
      // A direction that was cut off must not look like one that has ended.
      if (this.#end) return;
      direction.moved();
      if (n === null) {
        // A pending write may have got the reset: both were woken by the same event.
        if (this.#backOf(direction).writing) await sleep(0);
        const reset = this.#resetOf(direction);
        if (reset) return await this.#readFailed(direction, reset);
        break;
      }
      direction.writing = true;
      try {
        for (let offset = 0; offset < n;) {
          const written = to.write(buffer.bytes.subarray(offset, n));
          if (written instanceof Promise) atOnce = 0;
          const taken = written instanceof Promise ? await written : written;
          offset += taken;
          direction.bytes += taken;
          direction.moved();
        }
      } catch (error) {
        return await this.#writeFailed(direction, buffer.bytes, error);
      }
      direction.writing = false;
      buffer.filled(n);
    }
    buffer.release();
    this.#firstEnd ??= fromSide;
    direction.ended = direction.writing = true;
    try {
      const closing = to.closeWrite();
      if (closing) {
        this.#arm();
        await closing;
      }
    } catch (error) {
      // A writer that is gone needs no end; reads from it show whether bytes were still to come.
      this.#failure ??= { reason: "error", by: direction.toSide, error };
    }
    this.#over(direction);
  }

  /** The reset behind an apparent end: TCP reports a reset once, perhaps to a write. */
  #resetOf({ fromSide }: Direction): unknown {
    const { by, error } = this.#failure ?? {};
    return by === fromSide && error instanceof Deno.errors.ConnectionReset ? error : undefined;
  }

  #backOf(direction: Direction): Direction {
    return direction === this.#aToB ? this.#bToA : this.#aToB;
  }

  /** Aborts both, the writer a little later, so that what was written just before is not lost. */
  async #readFailed({ from, to, fromSide, movedAt }: Direction, error: unknown): Promise<void> {
    if (this.#end) return;
    // A failed write comes first, and explains the read that fails after it.
    this.#end = this.#failure ?? { reason: "error", by: fromSide, error };
    from.abort(this.#abortCode);
    const left = movedAt + DELIVERY_MS - performance.now();
    if (left > 0) await sleep(left);
    to.abort(this.#abortCode);
  }

  /**
   * The writer accepts no more: stops the reader's peer, or drops what it sends. The other
   * direction continues.
   */
  async #writeFailed(direction: Direction, buffer: Uint8Array, error: unknown): Promise<void> {
    const { from, toSide } = direction;
    this.#failure ??= { reason: "error", by: toSide, error };
    if (!from.stop) this.#lingered ??= Promise.withResolvers();
    this.#over(direction);
    if (from.stop) return from.stop(this.#abortCode ?? 0);
    const enough = new AbortController();
    const drop = async () => {
      while (!this.#end && !enough.signal.aborted && (await from.read(buffer)) !== null) {
        await sleep(DROP_PAUSE_MS, enough.signal);
      }
    };
    // When the reader is gone as well, the other direction's writes tell.
    await Promise.race([drop().catch(() => {}), this.#lingered!.promise]);
    enough.abort();
  }

  #over(direction: Direction): void {
    direction.ended = direction.over = true;
    direction.writing = false;
    direction.moved();
    this.#arm();
  }

  #connected(): void {
    this.#isConnected = true;
    this.#aToB.moved();
    this.#bToA.moved();
    this.#arm();
  }

  /**
   * Starts the one timer of the pipe, if a timeout can expire. Bytes do not restart it, nor does a
   * timeout that expires later: it checks when it fires.
   */
  #arm(): void {
    if (this.#end || this.#isDone || (this.#isLingering && !this.#lingered)) return;
    const now = performance.now();
    const at = this.#isLingering ? this.#movedAt + LINGER_MS : this.#nextTimeout(now).at;
    if (at >= this.#timerAt) return;
    clearTimeout(this.#timer);
    this.#timerAt = at;
    this.#timer = setTimeout(() => this.#look(), Math.min(Math.max(0, at - now), MAX_TIMER_MS));
  }

  #look(): void {
    this.#timerAt = Infinity;
    const now = performance.now();
    if (this.#isLingering) {
      if (now >= this.#movedAt + LINGER_MS) return this.#lingered?.resolve();
    } else {
      const { at, end } = this.#nextTimeout(now);
      if (now >= at && end) return this.#abort(end);
      const reset = this.#resetAfterEnd();
      if (reset) return this.#abort(reset);
    }
    this.#arm();
  }

  /** The reset of a side whose end was read before, and whose peer sends nothing more. */
  #resetAfterEnd(): End | undefined {
    const ended = [this.#aToB, this.#bToA].find(({ over }) => over);
    if (!ended?.from.isReset?.()) return undefined;
    const error = new Deno.errors.ConnectionReset("connection reset by peer");
    return { reason: "error", by: ended.fromSide, error };
  }

  /** Whether everything is done except for a side whose bytes are dropped. */
  get #isLingering(): boolean {
    return this.#aToB.over && this.#bToA.over;
  }

  get #movedAt(): number {
    return Math.max(this.#aToB.movedAt, this.#bToA.movedAt);
  }

  /**
   * The timeout that expires next if no byte moves, and when; without `end`, another check is due
   * then.
   */
  #nextTimeout(now: number): { at: number; end?: End } {
    let next: { at: number; end?: End } = { at: Infinity };
    if (!this.#isConnected) return next;
    const { halfOpenTimeoutMs = 0, idleTimeoutMs = 0, writeTimeoutMs = 0 } = this.#timeouts;
    const add = (timeoutMs: number, since: number, end?: End) => {
      const at = since + timeoutMs;
      if (timeoutMs > 0 && at < next.at) next = end ? { at, end } : { at };
    };
    const directions = [this.#aToB, this.#bToA];
    for (const { writing, movedAt, toSide } of directions) {
      if (writing) add(writeTimeoutMs, movedAt, { reason: "write-timeout", by: toSide });
      else add(writeTimeoutMs, now);
    }
    if (directions.some(({ ended }) => ended)) {
      const { writing, fromSide, toSide, to } = directions.find(({ over }) => !over)!;
      if (to.isReset) add(RESET_CHECK_MS, now);
      const end: End = { reason: "half-open", by: writing ? toSide : fromSide };
      add(halfOpenTimeoutMs, this.#movedAt, end);
      if (this.#isAbandonable(toSide)) {
        if (writing) add(ABANDONED_MS, this.#movedAt, end);
        else add(ABANDONED_MS, now);
      }
    }
    add(idleTimeoutMs, this.#movedAt, { reason: "idle" });
    return next;
  }

  /** Whether a side may be abandoned, and has ended. */
  #isAbandonable(side: Side): boolean {
    const { ended } = side === "a" ? this.#aToB : this.#bToA;
    return ended && this.#mayBeAbandoned?.() === side;
  }

  #abort(end: End): void {
    if (this.#end) return;
    this.#end = end;
    this.#aToB.from.abort(this.#abortCode);
    this.#bToA.from.abort(this.#abortCode);
  }
}
