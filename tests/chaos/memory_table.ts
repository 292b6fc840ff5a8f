// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { alignColumns } from "../../tools/columns.ts";
import { lookAt } from "../../tools/process_look.ts";

/** What counts as flat: the last third of the looks has no more than this, in the median, than the first. */
const MAX_GROWTH = 1.15;
const MAX_GROWTH_KIB = 24 << 10;

interface Samples {
  readonly pid: number;
  readonly name: string;
  readonly kib: number[];
}

/** The memory of processes over time. */
export class MemoryTable {
  readonly #processes: Samples[];

  constructor(processes: readonly { readonly pid: number; readonly name: string }[]) {
    this.#processes = processes.map(({ pid, name }) => ({ pid, name, kib: [] }));
  }

  async sample(): Promise<void> {
    const looks = await lookAt(this.#processes.map(({ pid }) => pid));
    for (const { pid, kib } of this.#processes) {
      const look = looks.get(pid);
      if (look) kib.push(look.rssKib);
    }
  }

  /** Forgets what was sampled: that was the warm-up. */
  warm(): void {
    for (const { kib } of this.#processes) kib.length = 0;
  }

  get #rows() {
    return this.#processes.map(({ name, kib }) => ({ name, ...memoryRow(kib) }));
  }

  /** What has grown, in words. */
  get violations(): string[] {
    return this.#rows.filter(({ isFlat }) => !isFlat).map(({ name, first, last }) =>
      `memory of ${name}: ${mib(first)} MiB in the first third, ${mib(last)} MiB in the last`
    );
  }

  toString(): string {
    const rows = this.#rows.map(({ name, first, last, most, isFlat, samples }) => [
      name,
      mib(first),
      mib(last),
      mib(most),
      (last / first).toFixed(2),
      String(samples),
      isFlat ? "flat" : "GROWS",
    ]);
    const percent = Math.round((MAX_GROWTH - 1) * 100);
    return `${
      alignColumns([
        ["RSS, MiB", "first third", "last third", "most", "ratio", "samples", ""],
        ...rows,
      ])
    }\nmedians; flat is a last third of up to ${percent} % + ${mib(MAX_GROWTH_KIB)} MiB more`;
  }
}

/** Compares the last third of some samples with the first. */
export function memoryRow(kib: readonly number[]) {
  const third = Math.ceil(kib.length / 3);
  const first = median(kib.slice(0, third));
  const last = median(kib.slice(-third));
  const isFlat = last <= first * MAX_GROWTH + MAX_GROWTH_KIB;
  return { first, last, most: Math.max(...kib), isFlat, samples: kib.length };
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;
}

function mib(kib: number): string {
  return (kib / 1024).toFixed(0);
}
