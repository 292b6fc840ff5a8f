// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { type Duplex, writeAll } from "./duplex.ts";
import { messageOf } from "./errors.ts";

export interface PipeOptions {
  /**
   * Time without a byte after which a pair of which one direction has ended is aborted; 0 for never.
   *
   * @default {300000}
   */
  readonly halfOpenTimeoutMs?: number;
  /** Aborts the pair. */
  readonly signal?: AbortSignal;
  /** Application error code that the carriers are aborted with. @default {0} */
  readonly abortCode?: number;
}

/** How a pair of carriers ended. */
export interface PipeResult {
  /** Bytes that went from `a` to `b`. */
  readonly aToB: number;
  /** Bytes that went from `b` to `a`. */
  readonly bToA: number;
  /**
   * - `end`: both directions were delivered up to their end
   * - `error`: a carrier failed, or was reset by its peer
   * - `half-open`: one direction had ended, and the other was silent for too long
   * - `aborted`: the signal was aborted
   */
  readonly reason: "end" | "error" | "half-open" | "aborted";
  /** The side that failed first. */
  readonly by?: "a" | "b";
  /** What it failed with. */
  readonly error?: unknown;
}

/**
 * The fields of the line that sums up a tunnel at its end.
 *
 * @param since when it began, by `performance.now()`
 * @param names what the two sides are called
 */
export function summarize(result: PipeResult, since: number, names: { a: string; b: string }) {
  return {
    sent: result.aToB,
    received: result.bToA,
    durationMs: Math.round(performance.now() - since),
    reason: result.reason,
    by: result.by && names[result.by],
    error: result.error && messageOf(result.error),
  };
}

/** An idle direction holds this much; it grows when reads fill most of it. */
const MIN_BUFFER_BYTES = 4 << 10;
const MAX_BUFFER_BYTES = 128 << 10;
const FULL_SHARE = 0.75;

/** Time that a side whose bytes go nowhere any more may go on sending them after everything else is done. */
const LINGER_MS = 1_000;

/** Time that bytes need to get ahead of the reset that follows them, which would overtake and drop them. */
const DELIVERY_MS = 100;

type Side = "a" | "b";

interface Direction {
  readonly from: Duplex;
  readonly to: Duplex;
  readonly fromSide: Side;
  bytes: number;
  /** Whether the reader got to the end, or the writer takes no more. */
  over: boolean;
}

/**
 * Carries bytes between two carriers, both ways, until both directions have ended; both are closed then. Never rejects.
 *
 * - The end of `a`'s bytes closes the writing direction of `b`; the other direction goes on.
 * - A failed read, such as a reset by the peer, aborts both, once the bytes before it have got through.
 * - A failed write ends its direction alone: a peer that takes no more bytes may still have an answer under way. The
 *   side they come from is told to stop, or its bytes are dropped.
 */
export async function pipeDuplex(
  a: Duplex,
  b: Duplex,
  options: PipeOptions = {},
): Promise<PipeResult> {
  const pair = new Pair(a, b, options);
  return await pair.run();
}

class Pair {
  readonly #options: PipeOptions;
  readonly #aToB: Direction;
  readonly #bToA: Direction;
  #end: Pick<PipeResult, "reason" | "by" | "error"> | undefined;
  #failure: Pick<PipeResult, "reason" | "by" | "error"> | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #progressAt = -Infinity;

  constructor(a: Duplex, b: Duplex, options: PipeOptions) {
    this.#options = options;
    this.#aToB = { from: a, to: b, fromSide: "a", bytes: 0, over: false };
    this.#bToA = { from: b, to: a, fromSide: "b", bytes: 0, over: false };
  }

  async run(): Promise<PipeResult> {
    const { signal } = this.#options;
    // What either side was given before counts as well.
    this.#progressAt = performance.now();
    const onAbort = () => this.#abort({ reason: "aborted", error: signal?.reason });
    signal?.addEventListener("abort", onAbort);
    if (signal?.aborted) onAbort();
    await Promise.all([this.#carry(this.#aToB), this.#carry(this.#bToA)]);
    signal?.removeEventListener("abort", onAbort);
    clearTimeout(this.#timer);
    const ended = this.#end ?? this.#failure ?? { reason: "end" };
    await Promise.all([dispose(this.#aToB.from), dispose(this.#bToA.from)]);
    return { aToB: this.#aToB.bytes, bToA: this.#bToA.bytes, ...ended };
  }

  async #carry(direction: Direction): Promise<void> {
    const { from, to, fromSide } = direction;
    let buffer = new Uint8Array(MIN_BUFFER_BYTES);
    while (!this.#end) {
      let n: number | null;
      try {
        n = await from.read(buffer);
      } catch (error) {
        return await this.#readFailed(direction, error);
      }
      if (n === null) break;
      try {
        await writeAll(to, n === buffer.length ? buffer : buffer.subarray(0, n));
      } catch (error) {
        this.#failure ??= { reason: "error", by: fromSide === "a" ? "b" : "a", error };
        return await this.#refuse(direction, buffer);
      }
      direction.bytes += n;
      this.#progressAt = performance.now();
      if (n >= buffer.length * FULL_SHARE && buffer.length < MAX_BUFFER_BYTES) {
        buffer = new Uint8Array(Math.min(buffer.length * 4, MAX_BUFFER_BYTES));
      }
    }
    try {
      await to.closeWrite();
    } catch (error) {
      // A writer that is gone needs no end; whether its bytes were still to come, its reader tells.
      this.#failure ??= { reason: "error", by: fromSide === "a" ? "b" : "a", error };
    }
    this.#over(direction);
  }

  /** Aborts both, the writer a little later: what it was given just before is not to be lost with the rest. */
  async #readFailed({ from, to, fromSide }: Direction, error: unknown): Promise<void> {
    if (this.#end) return;
    // A failed write comes first, and explains the read that fails after it.
    this.#end = this.#failure ?? { reason: "error", by: fromSide, error };
    from.abort(this.#options.abortCode);
    const left = this.#progressAt + DELIVERY_MS - performance.now();
    if (left > 0) await new Promise((resolve) => setTimeout(resolve, left));
    to.abort(this.#options.abortCode);
  }

  /** The writer takes no more: has the reader's peer stop, or drops what it sends, while the other direction goes on. */
  async #refuse(direction: Direction, buffer: Uint8Array): Promise<void> {
    const { from } = direction;
    this.#over(direction);
    if (from.stop) return from.stop(this.#options.abortCode ?? 0);
    try {
      while (!this.#end && (await from.read(buffer)) !== null);
    } catch {
      // Gone as well; the other direction's writes tell.
    }
  }

  #over(direction: Direction): void {
    direction.over = true;
    this.#progressAt = performance.now();
    if (this.#end) return;
    if (this.#aToB.over && this.#bToA.over) this.#watch(LINGER_MS);
    else this.#watch(this.#options.halfOpenTimeoutMs ?? 300_000);
  }

  #watch(timeoutMs: number): void {
    clearTimeout(this.#timer);
    if (timeoutMs === 0) return;
    const check = () => {
      const left = this.#progressAt + timeoutMs - performance.now();
      if (left > 0) this.#timer = setTimeout(check, left);
      else {this.#abort(
          this.#aToB.over && this.#bToA.over
            ? this.#failure ?? { reason: "end" }
            : { reason: "half-open" },
        );}
    };
    this.#timer = setTimeout(check, timeoutMs);
  }

  #abort(end: Pick<PipeResult, "reason" | "by" | "error">): void {
    if (this.#end) return;
    this.#end = end;
    this.#aToB.from.abort(this.#options.abortCode);
    this.#bToA.from.abort(this.#options.abortCode);
  }
}

async function dispose(duplex: Duplex): Promise<void> {
  try {
    await duplex[Symbol.asyncDispose]();
  } catch {
    // It has failed before, and the result says so.
  }
}
