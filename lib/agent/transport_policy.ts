// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What carries QUIC's datagrams: UDP, or a TCP connection that takes its place. */
export type Transport = "udp" | "tcp";

/** What `--transport` may say. */
export const transportChoices = ["auto", "udp", "tcp"] as const;
export type TransportChoice = typeof transportChoices[number];

/** Times of {@linkcode TransportPolicy}. */
export interface TransportPolicyOptions {
  /** How long UDP may be silent until TCP is tried beside it. @default {1500} */
  readonly headStartMs?: number;
  /** The same while UDP is known to fail. @default {250} */
  readonly shortHeadStartMs?: number;
  /** Time on TCP until UDP is tried again; doubled by each attempt that fails. @default {15000} */
  readonly firstTrialMs?: number;
  /** Longest time between two attempts. @default {300000} */
  readonly maxTrialMs?: number;
  /** The same for UDP that works only for a while. @default {3600000} */
  readonly maxFlappingMs?: number;
  /** Time that UDP has to last for its failures to be forgotten. @default {600000} */
  readonly steadyMs?: number;
}

const defaults: Required<TransportPolicyOptions> = {
  headStartMs: 1_500,
  shortHeadStartMs: 250,
  firstTrialMs: 15_000,
  maxTrialMs: 300_000,
  maxFlappingMs: 3_600_000,
  steadyMs: 600_000,
};

/**
 * Decides for one server which transport comes first, how long before the other, and when UDP is
 * tried again while TCP is in use. UDP is preferred. Times are milliseconds by any one clock.
 */
export class TransportPolicy {
  readonly #options: Required<TransportPolicyOptions>;
  #current: Transport = "udp";
  /** When the connection in use was made. */
  #since = 0;
  /** Failures of UDP in a row, each before it had lasted for `steadyMs`. */
  #strikes = 0;
  /** The same before the last failure, until something else works. */
  #strikesBefore: number | undefined;
  #intervalMs = 0;
  #nextTrialAt: number | undefined;

  constructor(options: TransportPolicyOptions = {}) {
    this.#options = { ...defaults, ...options };
  }

  /** The transport in use, or the last one. */
  get current(): Transport {
    return this.#current;
  }

  /** The transports in the order of their attempts. */
  get order(): readonly [Transport, Transport] {
    return this.#isFlapping ? ["tcp", "udp"] : ["udp", "tcp"];
  }

  /** How long the first attempt may be silent until the second one starts beside it. */
  get headStartMs(): number {
    const { headStartMs, shortHeadStartMs } = this.#options;
    return this.#strikes === 1 ? shortHeadStartMs : headStartMs;
  }

  /** When UDP is to be tried again; undefined while it is in use. */
  get nextTrialAt(): number | undefined {
    return this.#nextTrialAt;
  }

  /** UDP has failed, then worked, and failed again soon. */
  get #isFlapping(): boolean {
    return this.#strikes > 1;
  }

  /**
   * A connection was made.
   *
   * @returns whether it is over another transport than the one before
   */
  connected(transport: Transport, now: number): boolean {
    const isChange = transport !== this.#current;
    this.#current = transport;
    this.#since = now;
    this.#strikesBefore = undefined;
    if (transport === "udp") this.#nextTrialAt = undefined;
    else {
      this.#strikes = Math.max(this.#strikes, 1);
      const { firstTrialMs, maxFlappingMs } = this.#options;
      if (isChange) this.#intervalMs = Math.min(firstTrialMs * this.#damping, maxFlappingMs);
      this.#nextTrialAt ??= now + this.#intervalMs;
    }
    return isChange;
  }

  /** The connection in use has ended. @param isSilent the server was not heard any more */
  ended(isSilent: boolean, now: number): void {
    if (this.#current === "tcp") return;
    if (now - this.#since >= this.#options.steadyMs) this.#strikes = 0;
    if (isSilent) this.#strikesBefore = this.#strikes++;
  }

  /** Neither transport leads to the server: what has failed was not UDP alone. */
  unreachable(): void {
    this.#strikes = this.#strikesBefore ?? this.#strikes;
  }

  /** An attempt to use UDP again has failed. */
  trialFailed(now: number): void {
    const { maxTrialMs, maxFlappingMs } = this.#options;
    const maxMs = Math.min(maxTrialMs * this.#damping, maxFlappingMs);
    this.#intervalMs = Math.min(this.#intervalMs * 2, maxMs);
    this.#nextTrialAt = now + this.#intervalMs;
  }

  /** By how much longer the intervals are because UDP flaps. */
  get #damping(): number {
    return 2 ** (this.#strikes - 1);
  }
}
