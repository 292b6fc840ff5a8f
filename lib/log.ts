// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Log lines: level, category, a short constant message, fields.
 *
 * `--v` decides how much is said: errors, warnings and lifecycle (`info`) always, tunnels (`debug`) from 2, streams
 * (`trace`) from 4.
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

/**
 * Starts logging.
 *
 * @param verbosity the value of `--v`
 * @param write takes each line, without its end
 */
export function configureLog(verbosity: number, write: (line: string) => void): void {
  const lowestLevel = verbosity >= 4 ? "trace" : verbosity >= 2 ? "debug" : "info";
  configureSync({
    reset: true,
    sinks: { lines: (record) => write(formatRecord(record)) },
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

/** One record as a line of text. */
export function formatRecord(record: LogRecord): string {
  const time = new Date(record.timestamp).toISOString();
  const category = record.category.slice(1).join(".");
  const message = record.message.join("");
  let line = `${time} ${labels[record.level]} ${category} ${JSON.stringify(message)}`;
  for (const [name, value] of Object.entries(record.properties)) {
    if (value !== undefined) line += ` ${name}=${formatValue(value)}`;
  }
  return line;
}

/** Values come from peers: what is not plain is quoted, so that nobody can write lines or fields of their own. */
function formatValue(value: unknown): string {
  const text = value instanceof Error ? value.message : String(value);
  return /^[\w.:/@%+,\[\]-]+$/.test(text)
    ? text
    : JSON.stringify(text).replace(/[\u007f-\uffff]/g, escapeUnit);
}

function escapeUnit(unit: string): string {
  return `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
}
