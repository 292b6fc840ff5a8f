// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { CloseInfo } from "../errors.ts";
import type { NativeConnection } from "../quiche/native.ts";

/**
 * Why a peer may be gone:
 *
 * - `unanswered`: it does not acknowledge what was sent
 * - `successor`: what seems to be its successor has connected
 * - `refused`: no program receives what is sent to it, its system says
 */
export type DoubtCause = "unanswered" | "successor" | "refused";

/**
 * For how long a peer may leave what was sent to it unanswered, at least: one that has stalled for
 * a second, and goes on, is not given up. Where no program receives, none has stalled.
 */
const GRACE_MS: Readonly<Record<DoubtCause, number>> = {
  unanswered: 1_400,
  successor: 1_200,
  refused: 0,
};

/** Which cause another one takes the place of. */
const SUCCEEDS: Readonly<Record<DoubtCause, DoubtCause | undefined>> = {
  unanswered: undefined,
  successor: "unanswered",
  refused: "successor",
};

const WORDS: Readonly<Record<DoubtCause, string>> = {
  unanswered: "no answer to what was sent",
  successor: "no answer, and another connection with its certificate has come",
  refused: "port closed (ICMP port unreachable)",
};

/** Time after which what is unanswered is looked into. */
const UNANSWERED_MS = 500;

/** Interval of looks while a connection may not be given up. */
const RETRY_MS = 250;

/** Least time that a peer has for the answer to a probe, with what its system does meanwhile. */
const MIN_ANSWER_MS = 100;

/** Probe timeouts in which the peer must have answered any of the probes. */
const PROBE_TIMEOUTS = 3;

/** Probes are lost as other packets: two for each probe timeout. */
const PROBES_PER_TIMEOUT = 2;

/** Packets that must have left before silence says anything: a full window lets none out. */
const MIN_PROBES = 2;

/** Least time between the end of a doubt and the next one. */
const REST_MS = 1_000;

/** What is read of a native connection. */
type Asked = Pick<NativeConnection, "stats" | "pathStats">;

interface Doubt {
  cause: DoubtCause;
  /** When probing begins, or has begun. */
  since: number;
  /** Packets until then, and the time for an answer; undefined before. */
  begun?: { readonly received: number; readonly sent: number; readonly answerMs: number };
  /** Whether the first probe has had no answer in time. */
  isUnanswered: boolean;
}

/**
 * Finds out within about a second whether a peer is still there when something says that it may not
 * be. Nothing of what says so counts by itself, as anybody may have sent it: the peer is probed
 * (PING, RFC 9000 §19.2), and only silence ends the connection.
 */
export class PeerDoubt {
  /** Since when something that was sent is unanswered. */
  #unansweredSince = Infinity;
  /** When the peer was last heard of before that. */
  #heardAt = -Infinity;
  readonly #mayMove: boolean;
  #doubt: Doubt | undefined;
  #lookAt = Infinity;
  #restsUntil = -Infinity;

  /**
   * @param mayMove whether the peer's address may change: then `refused`, which may be said of the
   *   one before, counts only together with `successor`
   */
  constructor(mayMove: boolean) {
    this.#mayMove = mayMove;
  }

  /** Whether `refused` may count now. */
  get heedsRefusals(): boolean {
    return !this.#mayMove || this.#doubt !== undefined;
  }

  /** Whether the peer is being probed, and has not answered in time. */
  get isUnanswered(): boolean {
    return this.#doubt?.isUnanswered === true;
  }

  /** When {@linkcode look} has something to do; Infinity for never. */
  get dueAt(): number {
    return this.#lookAt;
  }

  /** Why the connection was given up, for its end's `CloseInfo`. */
  get ending(): Pick<CloseInfo, "reason" | "isRefused"> {
    const { cause } = this.#doubt!;
    return { reason: WORDS[cause], ...(cause === "refused" && { isRefused: true }) };
  }

  /**
   * Something that was sent is not acknowledged yet.
   *
   * @param receivedAt when something was last received
   */
  inFlight(now: number, receivedAt: number): void {
    if (receivedAt === this.#heardAt) return;
    this.#heardAt = receivedAt;
    this.#unansweredSince = now;
    this.#lookAt = Math.min(this.#lookAt, now + UNANSWERED_MS);
  }

  /**
   * Something says that the peer may be gone.
   *
   * @param cause `successor` takes the place of `unanswered`, and `refused` that of `successor`
   */
  raise(cause: DoubtCause, now: number, native: Asked): void {
    const begun = this.#doubt?.begun;
    if (begun && native.stats().recv > begun.received) this.#settle(now);
    if (this.#doubt) {
      if (SUCCEEDS[cause] !== this.#doubt.cause) return;
      this.#doubt.cause = cause;
    } else {
      if (cause === "refused" && this.#mayMove) return;
      this.#doubt = { cause, since: Math.max(now, this.#restsUntil), isUnanswered: false };
    }
    this.#lookAt = Math.min(this.#lookAt, Math.max(now, this.#doubt.since));
  }

  /**
   * What is to be done now: send a probe, or give the connection up.
   *
   * @param receivedAt when something was last received
   * @param maySpare whether the connection may be given up for want of acknowledgements
   */
  look(
    now: number,
    receivedAt: number,
    native: Asked,
    maySpare: () => boolean,
  ): "probe" | "lost" | undefined {
    if (now < this.#lookAt) return undefined;
    // What has come while this end did not run is still to be received.
    const missedMs = now - this.#lookAt;
    this.#unansweredSince += missedMs;
    if (this.#doubt) this.#doubt.since += missedMs;
    if (receivedAt !== this.#heardAt) this.#unansweredSince = Infinity;
    if (!this.#doubt && now >= this.#unansweredSince + UNANSWERED_MS) {
      if (!maySpare()) {
        this.#lookAt = now + RETRY_MS;
        return undefined;
      }
      this.raise("unanswered", now, native);
    }
    const doubt = this.#doubt;
    if (!doubt || now < doubt.since) {
      this.#lookAt = doubt?.since ?? this.#unansweredSince + UNANSWERED_MS;
      return undefined;
    }
    const { recv, sent } = native.stats();
    const { received, answerMs } = doubt.begun ??= {
      received: recv,
      sent,
      // Before a packet has come, the round-trip time is a guess.
      answerMs: Math.max(MIN_ANSWER_MS, recv === 0 ? 0 : 2 * (native.pathStats()[0]?.rtt ?? 0)),
    };
    if (recv > received) return this.#settle(now);
    const probes = sent - doubt.begun.sent;
    if (
      this.#isLost(now, doubt, answerMs, probes) && (doubt.cause !== "unanswered" || maySpare())
    ) {
      return "lost";
    }
    doubt.isUnanswered = now >= doubt.since + answerMs;
    this.#lookAt = now + answerMs / PROBES_PER_TIMEOUT;
    return "probe";
  }

  #isLost(now: number, { cause, since }: Doubt, answerMs: number, probes: number): boolean {
    const silentSince = Math.min(since, this.#unansweredSince);
    return now >= since + PROBE_TIMEOUTS * answerMs && now >= silentSince + GRACE_MS[cause] &&
      (cause === "refused" || probes >= MIN_PROBES);
  }

  /** The peer has answered. */
  #settle(now: number): undefined {
    this.#restsUntil = now + REST_MS;
    this.#doubt = undefined;
    this.#lookAt = Math.max(now, this.#unansweredSince + UNANSWERED_MS);
  }
}
