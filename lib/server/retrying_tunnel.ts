// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Awaitable } from "../wait.ts";
import type { Duplex } from "../tunnel/duplex.ts";
import { NotConnectedError, type RetryCause } from "../tunnel/failure.ts";
import { Replay } from "./replay.ts";
import type { OutgoingTunnel } from "../qrht/tunnel.ts";
import type { ResultCode } from "../qrht/messages.ts";
import { TunnelError } from "../tunnel/errors.ts";

/** No agent has connected the tunnel in time. */
export class ConnectTimeoutError extends TunnelError {
  override readonly name = "ConnectTimeoutError";
  constructor(message: string) {
    super("peer", "connect-timeout", message);
  }
}

export interface RetryOptions {
  /** Time for all attempts together; 0 for any. */
  readonly timeoutMs: number;
  /**
   * Bytes of the client's that are kept for another attempt. A client that sends more has no
   * further one.
   *
   * @default {65536}
   */
  readonly replayBytes?: number;
  /** How long a failed attempt may take to deliver its own answer. @default {10000} */
  readonly answerTimeoutMs?: number;
  /** Application error code for an attempt that another one has replaced. @default {0} */
  readonly movedCode?: number;
  /**
   * Makes the answer that the client reads, and then the end, where no attempt has given it a byte.
   * In the raw dialect, the timeout then counts until the first one. Without it, reads throw.
   *
   * @param error why there is none
   */
  readonly answer?: ((error: unknown) => Uint8Array) | undefined;
  /**
   * Starts another attempt with another agent; undefined when there is none, or the cause is not to
   * be retried.
   */
  retry(cause: RetryCause): Promise<OutgoingTunnel | undefined>;
}

/** Why an attempt that has a result has not connected the tunnel. */
async function failureOf({ result }: OutgoingTunnel): Promise<NotConnectedError | undefined> {
  const { code, text } = await result;
  return code === "connected" ? undefined : new NotConnectedError(code, text);
}

/**
 * A tunnel that is tried with another agent when one cannot connect it.
 *
 * The client's bytes are forwarded at once, and kept until an attempt succeeds: the next attempt
 * gets them from the start. Reads wait until the attempts are over, so that the client only gets
 * bytes of one: the successful one, or else the last one that has answered.
 */
export class RetryingTunnel implements Duplex {
  readonly #options: RetryOptions;
  readonly #replay: Replay;
  readonly #settled = Promise.withResolvers<void>();
  #isSettled = false;
  #current: OutgoingTunnel;
  /** A failed attempt that has an answer for the client. */
  #answered: OutgoingTunnel | undefined;
  /** Forwards the client's bytes to the current attempt. Rejects when that accepts no more. */
  #feeding: Promise<void>;
  /** Whether the chosen attempt has all the bytes that were kept. */
  #isFed = false;
  /** Time for all attempts together. */
  #connectTimer: ReturnType<typeof setTimeout> | undefined;
  /** Time for a failed attempt to deliver its answer. */
  #answerTimer: ReturnType<typeof setTimeout> | undefined;
  /** Whether the client has received anything of an attempt's. */
  #hasAnswered = false;
  /** Why the trying was given up. */
  #reason: unknown;
  #isAborted = false;
  /** What the client has not read yet of the answer that no attempt has given. */
  #ownAnswer: Uint8Array | undefined;

  constructor(first: OutgoingTunnel, options: RetryOptions) {
    this.#options = options;
    this.#replay = new Replay(options.replayBytes ?? 64 << 10);
    this.#settled.promise.catch(() => {});
    this.#current = first;
    this.#feeding = this.#feed();
    const { timeoutMs } = options;
    if (timeoutMs > 0) {
      this.#connectTimer = setTimeout(() => {
        if (this.#answered) this.#answer(this.#answered);
        else {
          this.#giveUp(
            new ConnectTimeoutError(
              `no agent connected the client to its target within ${timeoutMs} ms`,
            ),
          );
        }
      }, timeoutMs);
    }
    void this.#try();
  }

  /** Settles when the trying is over; rejects when there is nothing to read. */
  get connected(): Promise<void> {
    return this.#settled.promise;
  }

  async #try(): Promise<void> {
    while (!this.#isSettled) {
      let error: unknown;
      let result: ResultCode | "gone";
      try {
        result = (await this.#current.result).code;
      } catch (reason) {
        error = reason;
        result = "gone";
      }
      let next = result === "connected" ? undefined : await this.#next(result);
      if (next && this.#replay.isFixed) {
        // Meanwhile the client has left, or has sent more than can be replayed.
        this.#leave(next);
        next = undefined;
      }
      if (this.#isSettled) return;
      if (!next && result === "gone" && !this.#answered) return this.#giveUp(error);
      if (!next && result === "connected") return this.#settle();
      if (!next) return this.#answer(result === "gone" ? this.#answered! : this.#current);
      if (result === "gone") this.#leave(this.#current);
      else this.#keepAnswer(this.#current);
      this.#current = next;
      this.#feeding = this.#feed();
    }
  }

  async #next(cause: RetryCause): Promise<OutgoingTunnel | undefined> {
    if (this.#replay.isFixed) return undefined;
    return await this.#options.retry(cause).catch(() => undefined);
  }

  #feed(): Promise<void> {
    const feeding = this.#replay.feed(this.#current.carrier);
    // The next write rejects, and the attempt's result has the reason.
    feeding.catch(() => {});
    return feeding;
  }

  #keepAnswer(attempt: OutgoingTunnel | undefined): void {
    this.#leave(this.#answered);
    this.#answered = attempt;
  }

  #leave(attempt: OutgoingTunnel | undefined): void {
    attempt?.carrier.abort(this.#options.movedCode);
  }

  /** Gives the client the answer of a failed attempt. */
  #answer(attempt: OutgoingTunnel): void {
    if (attempt !== this.#current) {
      this.#leave(this.#current);
      this.#current = attempt;
      this.#answered = undefined;
    }
    this.#settle();
    this.#stopTimers();
    const late = async () => this.#giveUp(await failureOf(attempt));
    this.#answerTimer = setTimeout(late, this.#options.answerTimeoutMs ?? 10_000);
  }

  /** Chooses the current attempt for the client. */
  #settle(): void {
    if (this.#isSettled) return;
    this.#isSettled = true;
    if (!this.#options.answer || !this.#current.isRaw) this.#stopTimers();
    this.#keepAnswer(undefined);
    this.#replay.fix();
    const clear = () => this.#replay.clear();
    this.#feeding.then(() => {
      this.#isFed = true;
      clear();
    }, clear);
    this.#settled.resolve();
  }

  /** Also frees what the timers refer to. */
  #stopTimers(): void {
    clearTimeout(this.#connectTimer);
    clearTimeout(this.#answerTimer);
    this.#connectTimer = this.#answerTimer = undefined;
  }

  #giveUp(reason: unknown, code?: number): void {
    this.#reason ??= reason;
    this.#settled.reject(reason);
    this.#settle();
    this.#stopTimers();
    this.#current.carrier.abort(code);
  }

  /**
   * @throws {ConnectTimeoutError} when no agent has connected the tunnel in time
   * @throws {NotConnectedError} when none has connected it, and there is no answer: that is no end
   * of the target's. With {@linkcode RetryOptions.answer}, neither is thrown.
   * @throws when there is no attempt left, or the one that the client has got fails
   */
  read(buffer: Uint8Array): Awaitable<number | null> {
    return this.#hasAnswered ? this.#current.carrier.read(buffer) : this.#readFirst(buffer);
  }

  async #readFirst(buffer: Uint8Array): Promise<number | null> {
    const { answer } = this.#options;
    if (this.#ownAnswer) return this.#readOwn(this.#ownAnswer, buffer);
    try {
      if (!this.#isSettled) await this.#settled.promise;
      const n = await this.#current.carrier.read(buffer);
      if (n !== null) {
        this.#hasAnswered = true;
        clearTimeout(this.#connectTimer);
        return n;
      }
      const failure = await failureOf(this.#current);
      if (failure) throw failure;
      if (answer) throw new TunnelError("target", "end", "the tunnel ended without an answer");
      return null;
    } catch (error) {
      if (!answer || this.#isAborted) throw error;
      this.#giveUp(error);
      return this.#readOwn(answer(this.#reason), buffer);
    }
  }

  #readOwn(answer: Uint8Array, buffer: Uint8Array): number | null {
    const n = Math.min(answer.length, buffer.length);
    buffer.set(answer.subarray(0, n));
    this.#ownAnswer = answer.subarray(n);
    return n > 0 ? n : null;
  }

  write(bytes: Uint8Array): Awaitable<number> {
    if (this.#isFed) return this.#current.carrier.write(bytes);
    if (this.#replay.add(bytes)) return bytes.length;
    this.#replay.fix();
    return this.#feeding.then(() => this.#current.carrier.write(bytes));
  }

  /** Resolves when the chosen attempt has accepted everything. */
  closeWrite(): Awaitable<void> {
    return this.#isFed ? this.#current.carrier.closeWrite() : this.#closeFirst();
  }

  async #closeFirst(): Promise<void> {
    const inReplay = !this.#replay.isFixed;
    if (inReplay) {
      this.#replay.end();
      await this.#settled.promise;
    }
    await this.#feeding;
    if (!inReplay) await this.#current.carrier.closeWrite();
  }

  abort(code?: number): void {
    this.#isAborted = true;
    this.#giveUp(new Error("the tunnel was aborted"), code);
  }

  stop(code: number): void {
    this.#current.carrier.stop(code);
  }

  [Symbol.asyncDispose](): PromiseLike<void> {
    if (!this.#isSettled) this.abort();
    this.#stopTimers();
    return this.#current.carrier[Symbol.asyncDispose]();
  }
}
