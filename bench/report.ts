// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What the benchmark has to say. */
import { alignColumns } from "../tools/columns.ts";
import type { Judged } from "./bars.ts";
import type { CpuPerGb, Figure } from "./figures.ts";
import { type Spread, spreadOf } from "./statistics.ts";

/** Enough digits to tell small numbers apart. */
function digitsFor(value: number): number {
  if (Math.abs(value) >= 1000) return 0;
  return Math.abs(value) < 10 ? 2 : 1;
}

/** Median, and the extremes in brackets. */
function spreadCells({ median, min, max }: Spread, digits: number): [string, string] {
  const [low, high] = [min, max].map((value) => value.toFixed(digits));
  return [median.toFixed(digits), `[${low} to ${high}]`];
}

/** The figures of one row, with the CPU time where it was measured. */
export function figureTable(title: string, figures: readonly Figure[]): string {
  const hasCpu = figures.some(({ cpu }) => cpu.length > 0);
  const cpuTitles = hasCpu ? ["CPU s/GB: server", "agent"] : [];
  const rows = figures.map(({ name, unit, values, cpu }) => {
    const spread = spreadOf(values);
    return [
      name,
      unit,
      values.length.toFixed(),
      ...spreadCells(spread, digitsFor(spread.median)),
      ...(hasCpu ? [medianCell(cpu, "server"), medianCell(cpu, "agent")] : []),
    ];
  });
  return alignColumns([[title, "unit", "runs", "median", "[min to max]", ...cpuTitles], ...rows]);
}

function medianCell(cpu: readonly CpuPerGb[], end: keyof CpuPerGb): string {
  const values = cpu.flatMap((run) => run[end] ?? []);
  return values.length === 0 ? "-" : spreadOf(values).median.toFixed(2);
}

/**
 * Figures that belong side by side, by the last part of their ids: medians alone.
 *
 * @param columns the order of the first of them
 */
export function crossTable(
  title: string,
  figures: readonly Figure[],
  first: readonly string[],
): string {
  const columnOf = ({ id }: Figure) => id.slice(id.lastIndexOf("/") + 1);
  const there = new Set(figures.map(columnOf));
  const columns = new Set([...first.filter((column) => there.has(column)), ...there]);
  const rows = new Map<string, Map<string, number>>();
  for (const figure of figures) {
    const { name, unit, values } = figure;
    const key = [name, unit].filter((part) => part !== "").join(", ");
    const row = rows.get(key) ?? new Map<string, number>();
    rows.set(key, row.set(columnOf(figure), spreadOf(values).median));
  }
  return alignColumns([
    [title, ...columns],
    ...Array.from(rows, ([key, row]) => [
      key,
      ...Array.from(columns, (column) => row.get(column)?.toFixed(2) ?? "-"),
    ]),
  ]);
}

/** The ratios and what else there is a bar for, side by side with it. */
export function barTable(judged: readonly Judged[]): string {
  const rows = judged.map(({ name, unit, spread, bar, isLeast, missedBy }) => {
    const limit = bar === undefined ? "" : `${isLeast ? ">=" : "<="} ${bar}${unit}`;
    if (!spread) return [name, "-", "", limit, "not measured"];
    if (bar === undefined) {
      return [name, ...spreadCells(spread, digitsFor(spread.median)), limit, "to compare"];
    }
    const verdict = missedBy > 0 ? `missed by ${missedBy.toFixed(2)}${unit}` : "met";
    return [name, ...spreadCells(spread, digitsFor(spread.median)), limit, verdict];
  });
  return alignColumns([["", "figure", "[min to max]", "bar", ""], ...rows]);
}
