// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { sleep } from "../../wait.ts";
import type { Heartbeat } from "../agent_connection.ts";

/** Pause between an answer and the next question. */
const INTERVAL_MS = 1_000;

/** The same while somebody waits for what was sent to arrive. */
const URGENT_INTERVAL_MS = 10;

/** Time that is left for what was sent when the peer does not tell what has arrived. */
const BLIND_MS = 1_000;

/**
 * Finds out by questions whether the peer's program is there, and what has arrived there: Deno's
 * QUIC tells neither. One question is under way at most.
 */
export class PeerHeartbeat implements Heartbeat {
  #ask: (() => void) | undefined;
  #answeredAt = performance.now();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isAsking = false;
  #answer = Promise.withResolvers<number>();
  #stopped = false;
  /** Whether somebody waits for an answer to a question of now. */
  #isUrgent = false;

  /** Time since the last answer, in milliseconds; 0 of a peer that does not answer questions. */
  get silentForMs(): number {
    return this.#ask ? performance.now() - this.#answeredAt : 0;
  }

  start(ask: () => void): void {
    if (this.#stopped || this.#ask) return;
    this.#ask = ask;
    this.#answeredAt = performance.now();
    this.#next();
  }

  answered(streams: number): void {
    // Nobody asked.
    if (!this.#isAsking) return;
    this.#isAsking = false;
    this.#answeredAt = performance.now();
    const { resolve } = this.#answer;
    this.#answer = Promise.withResolvers();
    resolve(streams);
    this.#next();
  }

  /** No more questions; who waits is told that nothing is open any more. */
  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#answer.resolve(0);
  }

  /**
   * Resolves when the peer has no stream open any more, which means that it has all that was sent
   * on them, or when the time is over.
   */
  async settled(timeoutMs: number): Promise<void> {
    if (this.#stopped) return;
    const over = new AbortController();
    const ms = this.#ask ? timeoutMs : Math.min(timeoutMs, BLIND_MS);
    const late = sleep(ms, over.signal).then(() => "late" as const);
    try {
      // The answer to a question that is under way tells what was before.
      if (this.#isAsking && await Promise.race([this.#answer.promise, late]) === "late") return;
      this.#isUrgent = true;
      this.#next();
      for (;;) {
        const streams = await Promise.race([this.#answer.promise, late]);
        if (streams === 0 || streams === "late") return;
      }
    } finally {
      this.#isUrgent = false;
      over.abort();
    }
  }

  #next(): void {
    if (this.#isAsking || this.#stopped || !this.#ask) return;
    clearTimeout(this.#timer);
    const sinceMs = performance.now() - this.#answeredAt;
    const intervalMs = this.#isUrgent ? URGENT_INTERVAL_MS : INTERVAL_MS;
    this.#timer = setTimeout(() => {
      this.#isAsking = true;
      this.#ask!();
    }, Math.max(0, intervalMs - sinceMs));
  }
}
