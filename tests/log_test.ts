// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { LogRecord } from "@logtape/logtape";
import fc from "fast-check";
import { configureLog, formatJson, formatRecord, logger, resetLog } from "../lib/log.ts";

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

const jsonOf = (properties: Record<string, unknown>, more: Partial<LogRecord> = {}) =>
  JSON.parse(formatJson(record(properties, more)));

const head = {
  time: "2024-02-29T12:30:45.678Z",
  level: "info",
  category: "server",
  message: "agent connected",
};

test("formatJson() writes time, level, category, message and typed fields, in this order", () => {
  const fields = { agent: "agent-1", streams: 3, idle: false, rest: null, gone: undefined };
  assertEquals(
    formatJson(record(fields)),
    JSON.stringify({ ...head, agent: "agent-1", streams: 3, idle: false, rest: null }),
  );
  const levels = (["trace", "debug", "info", "warning", "error", "fatal"] as const)
    .map((level) => jsonOf({}, { level }).level);
  assertEquals(levels, ["trace", "debug", "info", "warning", "error", "fatal"]);
});

test("formatJson() has the message as the text shows it, and the values in it as fields as well", () => {
  const message = ["tcp listener on ", "[::1]:80", ""];
  assertEquals(jsonOf({ address: "[::1]:80" }, { message }), {
    ...head,
    message: "tcp listener on [::1]:80",
    address: "[::1]:80",
  });
});

test("formatJson() writes as text what JSON has no number or value for", () => {
  const fields = {
    error: new TypeError("cannot connect"),
    big: 2n ** 64n,
    never: Infinity,
    none: NaN,
    list: ["a", 1],
    symbol: Symbol("s"),
  };
  assertEquals(jsonOf(fields), {
    ...head,
    error: "cannot connect",
    big: "18446744073709551616",
    never: "Infinity",
    none: "NaN",
    list: "a,1",
    symbol: "Symbol(s)",
  });
});

test("formatJson() renames fields that have the name of one of its own", () => {
  const fields = { message: "m", message_: "n", time: 1, level: 2, category: 3, ["__proto__"]: 4 };
  assertEquals(Object.entries(jsonOf(fields)), [
    ...Object.entries(head),
    ["message_", "m"],
    ["message__", "n"],
    ["time_", 1],
    ["level_", 2],
    ["category_", 3],
    ["__proto__", 4],
  ]);
});

test("formatJson() makes one line of any names and values, that can be read back", () => {
  const text = fc.string({ unit: "binary" });
  const value = fc.oneof(text, fc.double(), fc.boolean(), fc.constant(null));
  fc.assert(fc.property(text.map((name) => `x${name}`), value, text, (name, value, message) => {
    const line = formatJson(record({ [name]: value }, { message: [message] }));
    assertMatch(line, /^[\x20-\x7e]+$/);
    const read = JSON.parse(line);
    const isWhole = typeof value !== "number" || Number.isFinite(value);
    // JSON has no negative zero.
    assertEquals(read[name], isWhole ? Object.is(value, -0) ? 0 : value : String(value));
    assertEquals(read.message, message);
  }));
});

const pem = (label: string) =>
  `-----BEGIN ${label}-----\nTUlJRXNlY3JldA==\nc2VjcmV0\n-----END ${label}-----`;

test("no format writes PEM blocks or the values of fields with credentials", () => {
  const cases: [value: string, written: string][] = [
    [`bad key: ${pem("PRIVATE KEY")}!`, "bad key: [PRIVATE KEY redacted]!"],
    [
      `${pem("CERTIFICATE")} ${pem("EC PRIVATE KEY")}`,
      "[CERTIFICATE redacted] [EC PRIVATE KEY redacted]",
    ],
    ["-----BEGIN RSA PRIVATE KEY-----\nTUlJRXNlY3Jl", "[RSA PRIVATE KEY redacted]"],
    [
      "Proxy-Authorization: Basic c2VjcmV0\r\nHost: a",
      "Proxy-Authorization: [redacted]\r\nHost: a",
    ],
    ["at authorization:Bearer c2VjcmV0", "at authorization: [redacted]"],
    ["Cookie: a=c2VjcmV0", "Cookie: [redacted]"],
  ];
  for (const [value, written] of cases) {
    const properties = { value, error: new Error(value) };
    const more = { message: ["message ", value] };
    assertEquals(jsonOf(properties, more), {
      ...head,
      message: `message ${written}`,
      value: written,
      error: written,
    });
    const text = formatRecord(record(properties, more));
    assertEquals(text.split("redacted]").length - 1, 3 * (written.split("redacted]").length - 1));
    assert(!/c2VjcmV0|TUlJRXNlY3Jl/.test(text), text);
  }
});

test("formatRecord() colours levels only when told to, and resets the colour at once", () => {
  const colored = (level: LogRecord["level"]) => formatRecord(record({ a: 1 }, { level }), true);
  assertEquals(colored("info"), `${prefix} a=1`);
  assertEquals(colored("error"), `${prefix} a=1`.replace("INF", "\x1b[31mERR\x1b[0m"));
  assertEquals(formatRecord(record({}, { level: "error" })), prefix.replace("INF", "ERR"));
});

test("configureLog() writes JSON when told to", () => {
  const lines: string[] = [];
  configureLog(0, (line) => lines.push(line), { format: "json", color: true });
  try {
    logger("server").info("tcp listener on {address}", { address: "127.0.0.1:1", streams: 2 });
  } finally {
    resetLog();
  }
  const { time, ...others } = JSON.parse(lines[0]!);
  assertMatch(time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assertEquals(others, {
    level: "info",
    category: "server",
    message: "tcp listener on 127.0.0.1:1",
    address: "127.0.0.1:1",
    streams: 2,
  });
  assertEquals(lines.length, 1);
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
