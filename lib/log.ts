// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Log lines: level, category, a short constant message, fields.
 *
 * `--v` selects the verbosity: errors, warnings and lifecycle (`info`) always, tunnels (`debug`)
 * from 2, streams (`trace`) from 4. `docs/logging.md` describes the lines.
 */
import { configureSync, getLogger, type Logger, type LogRecord, resetSync } from "@logtape/logtape";

export type { Logger };

const ROOT = "qrht";

const labels: Readonly<Record<LogRecord["level"], string>> = {
  trace: "TRC",
  debug: "DBG",
  info: "INF",
  warning: "WRN",
  error: "ERR",
  fatal: "FTL",
};

/** The logger of a part of a program. Says nothing until {@linkcode configureLog} was called. */
export function logger(category: string): Logger {
  return getLogger([ROOT, category]);
}

/** How a record is written as a line. */
export type LogFormat = "text" | "json";

/**
 * Starts logging.
 *
 * @param verbosity the value of `--v`
 * @param write takes each line, without its end
 * @param options format of the lines @default {text without colours}
 */
export function configureLog(
  verbosity: number,
  write: (line: string) => void,
  options: { readonly format?: LogFormat; readonly color?: boolean } = {},
): void {
  const { format = "text", color = false } = options;
  const lowestLevel = verbosity >= 4 ? "trace" : verbosity >= 2 ? "debug" : "info";
  const formatLine = format === "json"
    ? formatJson
    : (record: LogRecord) => formatRecord(record, color);
  configureSync({
    reset: true,
    sinks: { lines: (record) => write(formatLine(record)) },
    loggers: [
      { category: [ROOT], sinks: ["lines"], lowestLevel },
      { category: ["logtape", "meta"], sinks: ["lines"], lowestLevel: "warning" },
    ],
  });
}

/** Stops logging. */
export function resetLog(): void {
  resetSync();
}

/** Colours of a terminal (SGR); the levels without one are written plain. */
const colors: Readonly<Partial<Record<LogRecord["level"], number>>> = {
  trace: 90,
  debug: 90,
  warning: 33,
  error: 31,
  fatal: 31,
};

/** One record as a line of text. */
export function formatRecord(record: LogRecord, color = false): string {
  const code = color ? colors[record.level] : undefined;
  const label = labels[record.level];
  const level = code === undefined ? label : `\x1b[${code}m${label}\x1b[0m`;
  let line = `${timeOf(record)} ${level} ${categoryOf(record)} ${
    JSON.stringify(messageOf(record))
  }`;
  for (const [name, value] of Object.entries(record.properties)) {
    if (value !== undefined) line += ` ${name}=${formatValue(value)}`;
  }
  return line;
}

/**
 * One record as a JSON object in one line: `time`, `level`, `category`, `message`, and the fields.
 * A field with one of these names gets an underscore appended.
 */
export function formatJson(record: LogRecord): string {
  const line = new Map<string, unknown>([
    ["time", timeOf(record)],
    ["level", record.level],
    ["category", categoryOf(record)],
    ["message", messageOf(record)],
  ]);
  for (const [name, value] of Object.entries(record.properties)) {
    if (value === undefined) continue;
    let free = name;
    while (line.has(free)) free += "_";
    line.set(free, typedValue(value));
  }
  return escapeUnits(JSON.stringify(Object.fromEntries(line)));
}

const timeOf = ({ timestamp }: LogRecord) => new Date(timestamp).toISOString();

const categoryOf = ({ category }: LogRecord) => category.slice(1).join(".");

const messageOf = ({ message }: LogRecord) => redact(message.join(""));

/** Values come from peers. Those with special characters are quoted, to prevent log injection. */
function formatValue(value: unknown): string {
  const text = textOf(value);
  return /^[\w.:/@%+,\[\]-]+$/.test(text) ? text : escapeUnits(JSON.stringify(text));
}

/** Numbers that JSON has, booleans and null as they are; everything else as the text has it. */
function typedValue(value: unknown): unknown {
  const isTyped = value === null || typeof value === "boolean" || Number.isFinite(value);
  return isTyped ? value : textOf(value);
}

function textOf(value: unknown): string {
  return redact(value instanceof Error ? value.message : String(value));
}

/** Credentials that must not be logged, recognized by their form in any message or value. */
const secrets: readonly (readonly [pattern: RegExp, replacement: string])[] = [
  // A block that has been cut off is one, too.
  [/-----BEGIN ([^-]*)-----.*?(?:-----END [^-]*-----|$)/gs, "[$1 redacted]"],
  [/\b((?:proxy-)?authorization|(?:set-)?cookie)\s*:[^\r\n]*/gi, "$1: [redacted]"],
];

function redact(text: string): string {
  return secrets.reduce((text, [pattern, instead]) => text.replace(pattern, instead), text);
}

/** Leaves nothing in a line but what ASCII can print. */
function escapeUnits(json: string): string {
  return json.replace(/[\u007f-\uffff]/g, escapeUnit);
}

function escapeUnit(unit: string): string {
  return `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
}
