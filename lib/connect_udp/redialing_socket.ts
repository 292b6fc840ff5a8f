// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { backoffDelayMs } from "../backoff.ts";
import type { Authority } from "../net/authority.ts";
import type { DatagramEvents, DatagramSocket } from "../quic/mod.ts";
import { sleep } from "../wait.ts";
import { type Carrier, CarrierSocket } from "./carrier_socket.ts";

export interface RedialOptions {
  /** Makes another carrier. */
  readonly dial: (signal: AbortSignal) => Promise<Carrier>;
  /** Where datagrams come from, for who gets them: the address that is connected to. */
  readonly peer: Authority;
  /**
   * How long it may take until another carrier is there. Carriers that do not last that long count
   * as one that is still missing. @default {2000}
   */
  readonly giveUpMs?: number;
  /** Is told when a carrier is lost. */
  readonly broken?: (error: unknown) => void;
  /** Is told when another one has taken its place. */
  readonly redialled?: (carrier: Carrier) => void;
}

/** Pauses after dials that have failed in a row; the first dial is made at once. */
const PAUSES = { minMs: 50, maxMs: 500 };

/**
 * Sends and receives datagrams by one carrier after the other: when one is lost, it dials again, so
 * that a QUIC connection survives. What was on its way is lost, as UDP loses datagrams.
 */
export class RedialingSocket implements DatagramSocket {
  readonly isCarrier = true;
  readonly addr: Authority;
  readonly #options: RedialOptions;
  readonly #giveUpMs: number;
  readonly #events: DatagramEvents;
  readonly #maxDatagramBytes: number | undefined;
  readonly #closing = new AbortController();
  #socket: CarrierSocket | undefined;
  #redialling: Promise<void> | undefined;
  #isStarved = false;
  /** When the first of the carriers in a row was lost that have not lasted. */
  #lostAt = -Infinity;
  #upSince = 0;
  #failures = 0;

  /** @param first the carrier to begin with */
  constructor(first: Carrier, options: RedialOptions, events: DatagramEvents) {
    this.#options = options;
    this.#giveUpMs = options.giveUpMs ?? 2_000;
    this.#events = events;
    this.addr = first.localAddr;
    this.#maxDatagramBytes = first.maxDatagramBytes;
    this.#use(first);
  }

  /** Whether there is a carrier now. */
  get isUp(): boolean {
    return this.#socket !== undefined;
  }

  maxDatagramBytes(): number | undefined {
    return this.#maxDatagramBytes;
  }

  reserve(bytes: number, mustLeave?: boolean): Uint8Array | undefined {
    if (!this.#socket) this.#isStarved = true;
    return this.#socket?.reserve(bytes, mustLeave);
  }

  commit(bytes: number): void {
    this.#socket?.commit(bytes);
  }

  flush(): void {
    this.#socket?.flush();
  }

  noticeErrors(): void {}

  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.all([this.#socket?.close(), this.#redialling]);
  }

  #use(carrier: Carrier): void {
    this.#upSince = performance.now();
    this.#socket = new CarrierSocket(carrier, {
      datagram: (bytes, from) => this.#events.datagram(bytes, from),
      writable: () => this.#events.writable(),
      lost: (error) => this.#broken(error),
    }, this.#options.peer);
  }

  #broken(error: unknown): void {
    this.#socket = undefined;
    this.#options.broken?.(error);
    const now = performance.now();
    if (now - this.#upSince >= this.#giveUpMs) {
      this.#lostAt = now;
      this.#failures = 0;
    } else if (this.#lostAt === -Infinity) this.#lostAt = now;
    this.#redialling = this.#redial(error);
  }

  async #redial(error: unknown): Promise<void> {
    const { dial, redialled } = this.#options;
    const giveUpAt = this.#lostAt + this.#giveUpMs;
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(error), giveUpAt - performance.now());
    const signal = AbortSignal.any([late.signal, this.#closing.signal]);
    let carrier: Carrier | undefined;
    let failure = error;
    while (!carrier && !signal.aborted) {
      if (this.#failures > 0) await sleep(backoffDelayMs(this.#failures - 1, PAUSES), signal);
      this.#failures++;
      if (signal.aborted) break;
      carrier = await dial(signal).catch((error) => {
        if (!signal.aborted) failure = error;
        return undefined;
      });
    }
    clearTimeout(timer);
    if (carrier && this.#closing.signal.aborted) return carrier.duplex.abort();
    if (this.#closing.signal.aborted) return;
    if (!carrier) return this.#events.lost(failure);
    if (carrier.maxDatagramBytes !== this.#maxDatagramBytes) {
      carrier.duplex.abort();
      return this.#events.lost(new Error(OTHER_SIZE));
    }
    this.#use(carrier);
    redialled?.(carrier);
    this.#events.replaced();
    if (!this.#isStarved) return;
    this.#isStarved = false;
    this.#events.writable();
  }
}

const OTHER_SIZE = "the new carrier carries datagrams of another size";
