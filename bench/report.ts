// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What the benchmark has to say about its runs. */

/** Median and extremes of some numbers. */
export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** CPU time of a tunnel's processes, in seconds. */
export interface CpuTime {
  readonly server: number;
  readonly agent: number;
}

/** One subject of the benchmark. */
export interface Result {
  readonly name: string;
  /** Bytes of each run. */
  readonly bytes: number;
  /** Throughput of each run, in MB (1e6 bytes) per second. */
  readonly mbPerSecond: readonly number[];
  /** CPU time of each run, where it is known. */
  readonly cpu: readonly CpuTime[];
  /** Runs that did not complete, each of which was repeated in a new tunnel. */
  readonly failed: readonly string[];
  /** Errors that the programs did not catch. */
  readonly uncaught: number;
  /** Runs begun although the machine had other things to do. */
  readonly busy: number;
}

/** The tunnel, the same in the raw dialect, the binding's classes, and no tunnel. */
export type Results = readonly [Result, Result, Result, Result];

export function spreadOf(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
  return { median, min: sorted[0]!, max: sorted.at(-1)! };
}

/** The ratio of the medians, with the extremes of the ratios of runs next to each other. */
export function ratioOf(a: Result, b: Result): Spread {
  const pairs = a.mbPerSecond.map((value, i) => value / b.mbPerSecond[i]!);
  const median = spreadOf(a.mbPerSecond).median / spreadOf(b.mbPerSecond).median;
  return { median, min: Math.min(...pairs), max: Math.max(...pairs) };
}

/** CPU seconds per GB (1e9 bytes) in all runs of a subject together. */
export function cpuPerGb({ cpu, bytes }: Result): CpuTime | undefined {
  if (cpu.length === 0) return undefined;
  const gb = cpu.length * bytes / 1e9;
  const sum = (end: keyof CpuTime) => cpu.reduce((sum, run) => sum + run[end], 0) / gb;
  return { server: sum("server"), agent: sum("agent") };
}

/** How much more CPU time a byte takes in `a` than in `b`, where that is known. */
export function cpuRatioOf(a: Result, b: Result): number | undefined {
  const [x, y] = [cpuPerGb(a), cpuPerGb(b)];
  return x && y && (x.server + x.agent) / (y.server + y.agent);
}

export function formatTable(results: readonly Result[]): string {
  const rows = [["", "MB a run", "runs", "MB/s", "[min to max]", "CPU s/GB: server", "agent"]];
  for (const result of results) {
    const { median, min, max } = spreadOf(result.mbPerSecond);
    const cpu = cpuPerGb(result);
    rows.push([
      result.name,
      (result.bytes / 1e6).toFixed(),
      result.mbPerSecond.length.toFixed(),
      median.toFixed(1),
      `[${min.toFixed(1)} to ${max.toFixed(1)}]`,
      cpu?.server.toFixed(1) ?? "-",
      cpu?.agent.toFixed(1) ?? "-",
    ]);
  }
  return alignColumns(rows);
}

/** The first column to the left, the others to the right. */
export function alignColumns(rows: readonly string[][]): string {
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)));
  const line = (row: string[]) =>
    row.map((cell, i) => i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)).join("  ");
  return rows.map(line).join("\n");
}

/** A ratio with its extremes. */
export function formatRatio(name: string, { median, min, max }: Spread, digits = 1): string {
  const [middle, low, high] = [median, min, max].map((value) => value.toFixed(digits));
  return `${name}: ${middle} [${low} to ${high}]`;
}

/** The lines below the table. */
export function formatNotes([ours, raw, theirs, direct]: Results): string {
  const lines = [
    formatRatio("throughput, the driver / the binding's classes", ratioOf(ours, theirs)),
    formatRatio("throughput, no tunnel / the driver", ratioOf(direct, ours)),
    formatRatio("throughput, qrht/1 / the raw dialect", ratioOf(ours, raw), 2),
  ];
  const cpu = cpuRatioOf(theirs, ours);
  if (cpu !== undefined) {
    lines.push(`CPU a byte, the binding's classes / the driver: ${cpu.toFixed(1)}`);
  }
  for (const { name, failed, uncaught } of [ours, raw, theirs, direct]) {
    for (const reason of failed) lines.push(`repeated with ${name}: ${reason}`);
    if (uncaught > 0) lines.push(`errors that nothing caught in ${name}: ${uncaught}`);
  }
  const busy = ours.busy + raw.busy + theirs.busy + direct.busy;
  if (busy > 0) lines.push(`the machine had other things to do when ${busy} of the runs began`);
  return lines.join("\n");
}
