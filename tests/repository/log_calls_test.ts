// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Every call that logs, as the sources have it. */
import { assert, assertEquals } from "@std/assert";
import { filesBelow, read } from "../support/repository.ts";

/** What runs for each packet, each read and each write of a tunnel: a line of theirs would cost more than they do. */
const SILENT = [
  "lib/tunnel/duplex.ts",
  "lib/tunnel/pipe.ts",
  "lib/tunnel/tcp_duplex.ts",
  "lib/qrht/",
  "lib/quic/",
  "lib/server/replay.ts",
  "lib/server/retrying_tunnel.ts",
  "lib/net/tcp_reset.ts",
  "lib/qrht/tunnel.ts",
];

const programs = ["server.ts", "agent.ts", "passthrough.ts"];
const sources = [...programs, ...filesBelow("lib/", ".ts")]
  .filter((path) => path !== "lib/log.ts")
  .map((path) => ({ path, text: read(path) }));

/** `log.info(`, `log[level](`, `this.#log.warn(` and `logger("x").error(`, and what follows. */
const CALL =
  /\b(?:log|logger\([^()]*\))(?:\.(?:trace|debug|info|warn|warning|error|fatal)|\[[^\]]+\])\(\s*([\s\S]{80})/g;

interface Call {
  readonly path: string;
  readonly rest: string;
}

const calls: Call[] = sources.flatMap(({ path, text }) =>
  [...text.matchAll(CALL)].map((match) => ({ path, rest: match[1]! }))
);

/** A constant message, and nothing, or fields, or what makes fields, behind it. */
const MESSAGE =
  /^"((?:[^"\\]|\\.)*)"\s*(?:\)|,\s*(?:(?:\(\) => \()?\{|fields\b|line\b|this\.#fields\b))/;

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: { read: true }, fn });
}

test("log calls are seen by their test", () => {
  assert(calls.length >= 40, `${calls.length} calls`);
  for (const path of ["server.ts", "agent.ts", "lib/tls/expiry.ts", "lib/agent/session.ts"]) {
    assert(calls.some((call) => call.path === path), path);
  }
  // Whoever is given a logger makes calls; the lifecycle only starts logging.
  const users = sources.filter(({ text }) =>
    /import (?:type )?\{[^}]*\b[lL]ogger\b[^}]*\} from ".*\blog\.ts"/.test(text)
  );
  assert(users.length >= 9, `${users.length} users`);
  const silent = users.filter(({ path }) => !calls.some((call) => call.path === path));
  assertEquals(silent.map(({ path }) => path), []);
});

test("log calls have one constant message, and fields", () => {
  const wrong = calls.filter(({ rest }) => !MESSAGE.test(rest));
  assertEquals(wrong.map(({ path, rest }) => `${path}: ${rest}`), []);
});

test("log messages are short and plain, and name no more values than the fields have", () => {
  for (const { path, rest } of calls) {
    const message = MESSAGE.exec(rest)![1]!;
    assert(/^[a-z{][\x20-\x7e]{1,60}$/.test(message), `${path}: ${message}`);
    for (const [, name] of message.matchAll(/\{([^}]*)\}/g)) {
      assert(new RegExp(`\\b${name}\\b`).test(rest.slice(message.length)), `${path}: ${message}`);
    }
  }
});

test("what runs for each packet or read of a tunnel does not log", () => {
  const wrong = sources
    .filter(({ path }) => SILENT.some((name) => path.startsWith(name)))
    .filter(({ text }) => /\/log\.ts"|@logtape/.test(text));
  assertEquals(wrong.map(({ path }) => path), []);
  const gone = SILENT.filter((name) => !sources.some(({ path }) => path.startsWith(name)));
  assertEquals(gone, [], "in the list but not there");
});
