// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Formats values for the page: short, with a unit after a no-break space. */

export function formatNumber(value: number): string {
  return value < 1_000
    ? String(Number(value.toPrecision(3)))
    : Math.round(value).toLocaleString("en");
}

export function formatBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  // What would be rounded to 1000 is written in the next unit.
  for (; bytes >= 999.5 && unit < units.length - 1; unit++) bytes /= 1_000;
  return `${formatNumber(unit === 0 ? Math.round(bytes) : bytes)}\u00a0${units[unit]}`;
}

export function formatRate(bytesPerSecond: number): string {
  return `${formatBytes(bytesPerSecond)}/s`;
}

export function formatLatency(ms: number): string {
  return ms < 999.5 ? `${formatNumber(ms)}\u00a0ms` : `${formatNumber(ms / 1_000)}\u00a0s`;
}

/** The two largest units: `4 d 3 h`. */
export function formatDuration(ms: number): string {
  let rest = Math.max(0, Math.floor(ms / 1_000));
  const parts: string[] = [];
  for (const [unit, seconds] of [["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]] as const) {
    const count = Math.floor(rest / seconds);
    rest %= seconds;
    if (parts.length > 0 && count === 0) break;
    if (count > 0) parts.push(`${count}\u00a0${unit}`);
    if (parts.length === 2) break;
  }
  return parts.join(" ") || "0\u00a0s";
}

/** Of what has not been counted yet, a dash. */
export function formatPercent(part: number, whole: number): string {
  if (whole === 0) return "–";
  const percent = part / whole * 100;
  return percent > 0 && percent < 0.01
    ? "<\u00a00.01\u00a0%"
    : `${Number(percent.toFixed(2))}\u00a0%`;
}

/** `2026-01-31 12:00:00 UTC`; what is no time stays as it is. */
export function formatTime(time: string): string {
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) return visible(time);
  return `${date.toISOString().slice(0, 19).replace("T", "\u00a0")}\u00a0UTC`;
}

/** How much is left of a certificate, or how long it has been over. */
export function formatLeft(ms: number): string {
  const days = Math.floor(Math.abs(ms) / 86_400_000);
  const time = days > 1 ? `${formatNumber(days)}\u00a0days` : formatDuration(Math.abs(ms));
  return ms > 0 ? `${time} left` : `expired ${time} ago`;
}

/** Replaces invisible characters and those that change the text direction by their code points. */
export function visible(text: string): string {
  return text.replace(
    /[\p{C}\u2028\u2029]/gu,
    (character) => `[U+${character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0")}]`,
  );
}

/** A long text without its middle. */
export function shorten(text: string, length = 64): string {
  const characters = Array.from(text);
  if (characters.length <= length) return text;
  const end = Math.floor(length / 3);
  return `${characters.slice(0, length - end - 1).join("")}…${characters.slice(-end).join("")}`;
}
