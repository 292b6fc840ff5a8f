// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { type Element, element } from "./element.ts";
import { formatDuration } from "./format.ts";

/** A chart of the last minutes. */
export interface Chart {
  readonly title: string;
  /** One or two. They differ in colour and, for those who do not see it, in their dashes. */
  readonly series: readonly Series[];
  readonly intervalMs: number;
  readonly format: (value: number) => string;
  /** What the upper end of the axis is at least, so that noise does not fill the chart. */
  readonly atLeast: number;
  /** Said where there is no value at all. */
  readonly empty: string;
}

export interface Series {
  readonly name: string;
  /** Oldest first; null where there is no value. */
  readonly values: readonly (number | null)[];
}

/** The plot is stretched to any width, so that its labels are not in it but around it. */
export function chart({ title, series, intervalMs, format, atLeast, empty }: Chart): Element {
  const count = Math.max(...series.map(({ values }) => values.length));
  const values = series.flatMap(({ values }) => values.filter((value) => value !== null));
  const top = roundUp(Math.max(atLeast, ...values));
  const { windowMs, parts } = windowOf(count * intervalMs);
  const span = formatDuration(windowMs);
  const grid = [
    ...[0, 25, 50, 75, 100].map((y) => `M0 ${y}H1000`),
    ...Array.from({ length: parts + 1 }, (_, part) => `M${part / parts * 1_000} 0V100`),
  ].join("");
  return element(
    "figure",
    { class: "chart", "data-key": title },
    element("figcaption", {}, element("h3", {}, title), legend(series, format)),
    element(
      "div",
      { class: "plot" },
      element(
        "div",
        { class: "y", "aria-hidden": "true" },
        [4, 3, 2, 1, 0].map((part) => element("span", {}, format(top * part / 4))),
      ),
      element(
        "svg",
        {
          viewBox: "0 0 1000 100",
          preserveAspectRatio: "none",
          role: "img",
          "aria-label": `${title}, the last ${span}. ${describeSeries(series, format, empty)}`,
        },
        element("path", { class: "grid", d: grid }),
        series.map(({ values }, index) =>
          element("path", {
            class: `line line-${index}`,
            d: linePath(values, 1_000 * intervalMs / windowMs, top),
          })
        ),
      ),
      values.length === 0 ? element("p", { class: "no-data" }, empty) : undefined,
      element(
        "div",
        { class: "x", "aria-hidden": "true" },
        Array.from({ length: parts + 1 }, (_, part) =>
          element(
            "span",
            {},
            part === parts ? "now" : `−${formatDuration(windowMs / parts * (parts - part))}`,
          )),
      ),
    ),
  );
}

/** The names, with the last and the highest value. */
function legend(series: readonly Series[], format: (value: number) => string): Element {
  return element(
    "ul",
    { class: "legend" },
    series.map(({ name, values }, index) => {
      const last = values.at(-1) ?? null;
      const numbers = values.filter((value) => value !== null);
      const line = { class: `line line-${index}`, d: "M1 5H23" };
      return element(
        "li",
        {},
        element("svg", { viewBox: "0 0 24 10", "aria-hidden": "true" }, element("path", line)),
        element("span", {}, name),
        element("b", {}, last === null ? "–" : format(last)),
        numbers.length === 0
          ? undefined
          : element("span", { class: "muted" }, `max ${format(Math.max(...numbers))}`),
      );
    }),
  );
}

/** The chart for those who do not see it. */
function describeSeries(
  series: readonly Series[],
  format: (value: number) => string,
  empty: string,
): string {
  const sentences = series.map(({ name, values }) => {
    const numbers = values.filter((value) => value !== null);
    if (numbers.length === 0) return `${name}: no values.`;
    const last = values.at(-1) ?? null;
    const now = last === null ? "none now" : `${format(last)} now`;
    return `${name}: ${now}, from ${format(Math.min(...numbers))} to ${
      format(Math.max(...numbers))
    }.`;
  });
  return series.every(({ values }) => values.every((value) => value === null))
    ? empty
    : sentences.join(" ");
}

/** Ends at the right edge, with gaps where values are missing, and dots for single values. */
export function linePath(values: readonly (number | null)[], step: number, top: number): string {
  let path = "";
  let isDrawing = false;
  values.forEach((value, index) => {
    if (value !== null) {
      const x = Number((1_000 - (values.length - 1 - index) * step).toFixed(2));
      const y = Number((100 - value / top * 100).toFixed(2));
      path += isDrawing ? `L${x} ${y}` : `M${x} ${y}h0`;
    }
    isDrawing = value !== null;
  });
  return path;
}

/** The smallest number at or above a value whose quarters are round. */
export function roundUp(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].find((digit) => digit * power >= value)! * power;
}

/** A round length of time that has room for so much, and how many round parts to divide it into. */
export function windowOf(ms: number): { windowMs: number; parts: number } {
  const windows = [[1, 4], [2, 4], [5, 5], [10, 5], [15, 5], [20, 4], [30, 5], [60, 4]] as const;
  const [minutes, parts] = windows.find(([minutes]) => minutes * 60_000 >= ms) ??
    [Math.ceil(ms / 3_600_000) * 60, 4];
  return { windowMs: minutes * 60_000, parts };
}
