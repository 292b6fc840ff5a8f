// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Disruptions, Suspect } from "./disruptions.ts";
import type { Ledger } from "./ledger.ts";
import type { Outcome } from "./load.ts";
import type { Report } from "./report.ts";
import type { ServedTunnel } from "./server_watch.ts";

/** How long after its end a tunnel is judged: what a server's log says of it may be late. */
const JUDGED_AFTER_MS = 15_000;

/** Tells failures that something allowed from those that nothing did. */
export class Judge {
  readonly #suspects: Outcome[] = [];

  constructor(
    readonly report: Report,
    readonly ledger: Ledger,
    readonly disruptions: Disruptions,
    /** What the log of its server says of a tunnel. */
    readonly served: (suspect: Suspect) => ServedTunnel | undefined,
  ) {}

  /** Takes a tunnel that has ended. */
  take(outcome: Outcome): void {
    const { error, repeated } = outcome;
    if (error !== undefined || repeated) this.#suspects.push(outcome);
    else this.report.tunnel(outcome, "right");
  }

  /** Judges those that have ended long enough ago, or all. */
  judge(all = false): void {
    const before = all ? Infinity : performance.now() - JUDGED_AFTER_MS;
    while (this.#suspects[0] && this.#suspects[0].endedAt < before) {
      this.#judge(this.#suspects.shift()!);
    }
  }

  #judge(outcome: Outcome): void {
    const { site, kind, id, client, error, repeated, startedAt, endedAt } = outcome;
    const served = this.served(outcome);
    const excuse = this.disruptions.excuseFor(outcome, served);
    this.report.tunnel(outcome, !excuse ? "wrong" : error === undefined ? "right" : "excused");
    if (excuse) return this.report.excuse(excuse.kind);
    const seconds = ((endedAt - startedAt) / 1000).toFixed(1);
    const agents = served
      ? `agents ${[...served.agents].join() || "none"}`
      : "unknown to the server";
    this.ledger.violated(
      `${site}: tunnel ${id}, ${kind}, client ${client}, ${agents}, after ${seconds} s and with ` +
        `nothing that allows it: ${error ?? (repeated ? "a target has got a request twice" : "")}`,
    );
  }
}
