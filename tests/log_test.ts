// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { LogRecord } from "@logtape/logtape";
import fc from "fast-check";
import { configureLog, formatRecord, logger, resetLog } from "../lib/log.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

function record(properties: Record<string, unknown>, more: Partial<LogRecord> = {}): LogRecord {
  return {
    category: ["qrht", "server"],
    level: "info",
    message: ["agent connected"],
    rawMessage: "agent connected",
    timestamp: Date.UTC(2024, 1, 29, 12, 30, 45, 678),
    properties,
    ...more,
  };
}

const prefix = '2024-02-29T12:30:45.678Z INF server "agent connected"';

/** The lines that programs of a verbosity write. */
function linesOf(verbosity: number, write: () => void): string[] {
  const lines: string[] = [];
  configureLog(verbosity, (line) => lines.push(line));
  try {
    write();
  } finally {
    resetLog();
  }
  return lines;
}

test("formatRecord() writes time, level, category, message and fields", () => {
  const fields = { agent: "agent-1", remote: "[::1]:4433", streams: 3, idle: false, rest: null };
  assertEquals(
    formatRecord(record(fields)),
    `${prefix} agent=agent-1 remote=[::1]:4433 streams=3 idle=false rest=null`,
  );
});

test("formatRecord() has a label of three letters for each level", () => {
  const labels = (["trace", "debug", "info", "warning", "error", "fatal"] as const)
    .map((level) => formatRecord(record({}, { level })).split(" ")[1]);
  assertEquals(labels, ["TRC", "DBG", "INF", "WRN", "ERR", "FTL"]);
});

test("formatRecord() leaves undefined fields out", () => {
  assertEquals(formatRecord(record({ a: undefined, b: 0, c: undefined })), `${prefix} b=0`);
  assertEquals(formatRecord(record({ a: undefined })), prefix);
});

test("formatRecord() writes the message of an error", () => {
  const error = new TypeError("cannot connect");
  assertEquals(formatRecord(record({ error })), `${prefix} error="cannot connect"`);
});

test("formatRecord() leaves plain values unquoted", () => {
  for (
    const value of [
      "agent-1",
      "127.0.0.1:8443",
      "/etc/ssl/ca.pem",
      "a@b",
      "100%",
      "1+1",
      "a,b",
      "2.5",
      "_",
    ]
  ) {
    assertEquals(formatRecord(record({ value })), `${prefix} value=${value}`);
  }
});

test("formatRecord() quotes what could pass for something else", () => {
  const cases: [value: string, written: string][] = [
    ["", '""'],
    ["two words", '"two words"'],
    ["x level=ERR", '"x level=ERR"'],
    ["a=b", '"a=b"'],
    ['say "hi"', String.raw`"say \"hi\""`],
    ["back\\slash", String.raw`"back\\slash"`],
    ["line\nbreak", String.raw`"line\nbreak"`],
    ["carriage\rreturn", String.raw`"carriage\rreturn"`],
    ["\ttab", String.raw`"\ttab"`],
    ["nul\0", String.raw`"nul\u0000"`],
    ["\x1b[31mred\x1b[0m", String.raw`"\u001b[31mred\u001b[0m"`],
    ["\x1b]0;title\x07", String.raw`"\u001b]0;title\u0007"`],
    // A terminal takes these for the same as ESC [ and for a deletion.
    ["\x9b31m", String.raw`"\u009b31m"`],
    ["\x7f", String.raw`"\u007f"`],
    ["caf\u00e9", String.raw`"caf\u00e9"`],
    // Line and paragraph separators, a direction override, and a character of two units.
    ["\u2028\u2029", String.raw`"\u2028\u2029"`],
    ["\u202etxt", String.raw`"\u202etxt"`],
    ["\u{1f600}", String.raw`"\ud83d\ude00"`],
    ["\ud83d", String.raw`"\ud83d"`],
  ];
  for (const [value, written] of cases) {
    assertEquals(formatRecord(record({ value })), `${prefix} value=${written}`);
    assertEquals(
      formatRecord(record({ error: new Error(value) })),
      `${prefix} error=${written}`,
      "as the message of an error",
    );
  }
});

test("formatRecord() quotes its message", () => {
  assertEquals(
    formatRecord(record({}, { message: ["tcp listener on ", "[::1]:80\nERR", ""] })),
    String.raw`2024-02-29T12:30:45.678Z INF server "tcp listener on [::1]:80\nERR"`,
  );
});

test("formatRecord() makes one line of any value, that can be read back", () => {
  fc.assert(fc.property(fc.string({ unit: "binary" }), (value) => {
    const line = formatRecord(record({ value, after: 1 }));
    assertMatch(line, /^[\x20-\x7e]+$/);
    assert(line.startsWith(`${prefix} value=`) && line.endsWith(" after=1"));
    const written = line.slice(`${prefix} value=`.length, -" after=1".length);
    assertEquals(written.startsWith('"') ? JSON.parse(written) : written, value);
  }));
});

test("configureLog() says more with higher verbosity", () => {
  const levelsOf = (verbosity: number) =>
    linesOf(verbosity, () => {
      const log = logger("agent");
      log.error("e");
      log.warn("w");
      log.info("i");
      log.debug("d");
      log.trace("t");
    }).map((line) => line.split(" ")[1]).join(" ");
  assertEquals(levelsOf(0), "ERR WRN INF");
  assertEquals(levelsOf(1), "ERR WRN INF");
  assertEquals(levelsOf(2), "ERR WRN INF DBG");
  assertEquals(levelsOf(3), "ERR WRN INF DBG");
  assertEquals(levelsOf(4), "ERR WRN INF DBG TRC");
  assertEquals(levelsOf(10), "ERR WRN INF DBG TRC");
});

test("logger() names its category, and writes its fields and the values in its message", () => {
  const [line, ...others] = linesOf(0, () => {
    logger("server").info("tcp listener on {address}", { address: "127.0.0.1:8443" });
  });
  assertEquals(others, []);
  assertMatch(
    line!,
    /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INF server "tcp listener on 127\.0\.0\.1:8443" address=127\.0\.0\.1:8443$/,
  );
});

test("configureLog() may be called again, and logger() may come before it", () => {
  const early = logger("early");
  assertEquals(linesOf(0, () => early.info("first")).length, 1);
  assertEquals(linesOf(2, () => early.debug("second")).length, 1);
});

test("resetLog() stops logging", () => {
  const lines: string[] = [];
  configureLog(4, (line) => lines.push(line));
  resetLog();
  logger("server").error("unheard");
  assertEquals(lines, []);
});
