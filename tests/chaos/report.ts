// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What a run of `deno task chaos` says, as it goes on and at its end. */
import { delay } from "@std/async/delay";
import { alignColumns } from "../../tools/columns.ts";
import type { KindName } from "./kinds.ts";
import type { Outcome } from "./load.ts";

interface KindCount {
  right: number;
  excused: number;
  wrong: number;
}

/** Counts of all that has happened. */
export class Report {
  readonly #since = performance.now();
  readonly #events = new Map<string, number>();
  /** Tunnels that each kind of event has allowed to fail. */
  readonly #excuses = new Map<string, number>();
  readonly #kinds = new Map<KindName, KindCount>();
  readonly #errors = new Map<string, number>();
  readonly #firstBytesMs: number[] = [];
  readonly #write: (line: string) => void;
  repeated = 0;

  /** @param write takes each line */
  constructor(write: (line: string) => void) {
    this.#write = write;
  }

  say(text: string): void {
    const seconds = ((performance.now() - this.#since) / 1000).toFixed(1);
    this.#write(`${seconds.padStart(6)} s  ${text}`);
  }

  event(kind: string): void {
    this.#events.set(kind, (this.#events.get(kind) ?? 0) + 1);
  }

  /** Something has allowed a tunnel to fail. */
  excuse(kind: string): void {
    this.#excuses.set(kind, (this.#excuses.get(kind) ?? 0) + 1);
  }

  /** @param verdict `excused` for a failure that something allowed */
  tunnel({ kind, error, firstByteMs, repeated }: Outcome, verdict: keyof KindCount): void {
    const count = this.#kinds.get(kind) ?? { right: 0, excused: 0, wrong: 0 };
    count[verdict]++;
    this.#kinds.set(kind, count);
    if (repeated) this.repeated++;
    if (error !== undefined) {
      const words = error.replace(/\d+/g, "#").slice(0, 70);
      this.#errors.set(words, (this.#errors.get(words) ?? 0) + 1);
    }
    if (firstByteMs !== undefined) this.#firstBytesMs.push(firstByteMs);
  }

  get tunnels(): number {
    return this.#sum("right") + this.#sum("excused") + this.#sum("wrong");
  }

  /** Resolves when there were that many tunnels. */
  async tunnelsReach(count: number): Promise<void> {
    while (this.tunnels < count) await delay(100);
  }

  #sum(verdict: keyof KindCount): number {
    return Array.from(this.#kinds.values()).reduce((sum, count) => sum + count[verdict], 0);
  }

  toString(): string {
    const events = Array.from(this.#events, ([kind, count]) => [
      kind,
      String(count),
      String(this.#excuses.get(kind) ?? 0),
    ]).sort();
    const kinds = Array.from(this.#kinds, ([kind, { right, excused, wrong }]) => [
      kind,
      ...[right + excused + wrong, right, excused, wrong].map(String),
    ]).sort();
    const all = [this.tunnels, this.#sum("right"), this.#sum("excused"), this.#sum("wrong")];
    const errors = Array.from(this.#errors).sort((a, b) => b[1] - a[1]).slice(0, 15)
      .map(([words, count]) => [words, String(count)]);
    const sorted = this.#firstBytesMs.sort((a, b) => a - b);
    const at = (share: number) =>
      sorted[Math.floor(share * (sorted.length - 1))]?.toFixed(0) ?? "-";
    const tables = [
      alignColumns([
        ["tunnels", "all", "right", "failed as allowed", "WRONG"],
        ...kinds,
        ["together", ...all.map(String)],
      ]),
    ];
    if (events.length > 0) {
      tables.unshift(alignColumns([["events", "times", "tunnels that failed"], ...events]));
    }
    if (errors.length > 0) {
      tables.push(alignColumns([["what clients saw of failures", "times"], ...errors]));
    }
    return [
      ...tables,
      `first byte of a connected tunnel, ms: p50 ${at(0.5)}, p99 ${at(0.99)}, worst ${at(1)}`,
      `requests that a target got twice, of agents that vanished as they got through: ${this.repeated}`,
    ].join("\n\n");
  }
}
