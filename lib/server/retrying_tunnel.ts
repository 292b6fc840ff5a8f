// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Duplex } from "../tunnel/duplex.ts";
import { NotConnectedError, type RetryCause } from "../qrht/failure.ts";
import { Replay } from "./replay.ts";
import type { OutgoingTunnel } from "../qrht/tunnel.ts";
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
  /** Time that an attempt which has failed has for all of its own answer. @default {10000} */
  readonly answerTimeoutMs?: number;
  /** Application error code for an attempt that another one has replaced. @default {0} */
  readonly movedCode?: number;
  /**
   * Makes another attempt, with another agent; undefined when there is none, or the cause is not
   * worth it.
   */
  retry(cause: RetryCause): Promise<OutgoingTunnel | undefined>;
}

/**
 * A tunnel that is tried with another agent when one cannot connect it.
 *
 * The client's bytes are handed on as they come, and kept as well until an attempt has succeeded:
 * the next attempt gets them from the first. Reads wait for the end of the trying, so that the
 * client gets bytes of one attempt only: of the one that has succeeded, or else of the last that
 * has answered.
 */
export class RetryingTunnel implements Duplex {
  readonly #options: RetryOptions;
  readonly #replay: Replay;
  readonly #settled = Promise.withResolvers<void>();
  #isSettled = false;
  #current: OutgoingTunnel;
  /** An attempt that has failed, but has an answer for the client. */
  #answered: OutgoingTunnel | undefined;
  /** The client's bytes on their way to the present attempt. Rejects when that takes no more. */
  #feeding: Promise<void>;
  /** Whether the attempt that the client has got has taken all that was kept. */
  #isFed = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Whether the client has got anything. */
  #hasAnswered = false;

  constructor(first: OutgoingTunnel, options: RetryOptions) {
    this.#options = options;
    this.#replay = new Replay(options.replayBytes ?? 64 << 10);
    this.#settled.promise.catch(() => {});
    this.#current = first;
    this.#feeding = this.#feed();
    const { timeoutMs } = options;
    if (timeoutMs > 0) {
      this.#timer = setTimeout(() => {
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
      const result = await this.#current.result.then(({ code }) => code, (reason) => {
        error = reason;
        return "gone" as const;
      });
      let next = result === "connected" ? undefined : await this.#next(result);
      if (next && this.#replay.isFixed) {
        // Meanwhile the client has left, or has sent more than can be repeated.
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
    // Whoever writes next is told, and the attempt's result says why.
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

  /** The client gets the answer of an attempt that has failed. */
  #answer(attempt: OutgoingTunnel): void {
    if (attempt !== this.#current) {
      this.#leave(this.#current);
      this.#current = attempt;
      this.#answered = undefined;
    }
    this.#settle();
    this.#timer = setTimeout(() => this.abort(), this.#options.answerTimeoutMs ?? 10_000);
  }

  /** The client gets the present attempt. */
  #settle(): void {
    if (this.#isSettled) return;
    this.#isSettled = true;
    this.#stopTimer();
    this.#keepAnswer(undefined);
    this.#replay.fix();
    this.#feeding.then(() => this.#isFed = true, () => {}).then(() => this.#replay.clear());
    this.#settled.resolve();
  }

  /** What is held for the timer goes with it. */
  #stopTimer(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #giveUp(reason: unknown, code?: number): void {
    this.#settled.reject(reason);
    this.#settle();
    this.#stopTimer();
    this.#current.carrier.abort(code);
  }

  /**
   * @throws {ConnectTimeoutError} when no agent has connected the tunnel in time
   * @throws {NotConnectedError} when none has connected it, and there is no answer: that is no end
   * of the target's
   * @throws when there is no attempt left, or the one that the client has got fails
   */
  read(buffer: Uint8Array): Promise<number | null> {
    return this.#hasAnswered ? this.#current.carrier.read(buffer) : this.#readFirst(buffer);
  }

  async #readFirst(buffer: Uint8Array): Promise<number | null> {
    if (!this.#isSettled) await this.#settled.promise;
    const n = await this.#current.carrier.read(buffer);
    if (n !== null) this.#hasAnswered = true;
    else {
      const { code, text } = await this.#current.result;
      if (code !== "connected") throw new NotConnectedError(code, text);
    }
    return n;
  }

  write(bytes: Uint8Array): Promise<number> {
    return this.#isFed ? this.#current.carrier.write(bytes) : this.#writeFirst(bytes);
  }

  async #writeFirst(bytes: Uint8Array): Promise<number> {
    if (this.#replay.add(bytes)) return bytes.length;
    this.#replay.fix();
    await this.#feeding;
    return await this.#current.carrier.write(bytes);
  }

  /** Resolves when the attempt that the client has got has taken everything. */
  async closeWrite(): Promise<void> {
    const inReplay = !this.#replay.isFixed;
    if (inReplay) {
      this.#replay.end();
      await this.#settled.promise;
    }
    await this.#feeding;
    if (!inReplay) await this.#current.carrier.closeWrite();
  }

  abort(code?: number): void {
    this.#giveUp(new Error("the tunnel was aborted"), code);
  }

  stop(code: number): void {
    this.#current.carrier.stop(code);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#isSettled) this.abort();
    this.#stopTimer();
    await this.#current.carrier[Symbol.asyncDispose]();
  }
}
