// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertGreaterOrEqual, assertStringIncludes } from "@std/assert";
import { ProxyHeaderError } from "../../lib/server/identify_client.ts";
import { endingOf, type Role, summarize } from "../../lib/observe/ending.ts";
import { NotConnectedError } from "../../lib/tunnel/failure.ts";
import type { PipeResult } from "../../lib/tunnel/pipe.ts";
import { ProtocolError } from "../../lib/qrht/frame.ts";
import {
  type CloseInfo,
  ConnectionClosedError,
  StreamResetError,
  StreamStoppedError,
} from "../../lib/quic/mod.ts";
import { NoRouteError } from "../../lib/server/groups.ts";
import { NoAgentError } from "../../lib/server/registry.ts";
import { ConnectTimeoutError } from "../../lib/server/retrying_tunnel.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name, permissions: { read: true }, fn });
}

const closed = (by: CloseInfo["by"]) =>
  new ConnectionClosedError({ by, application: true, code: 100, reason: "bye" });

/** Fields as they are logged: without those that are undefined. */
function fieldsOf(result: PipeResult, self: Role): Record<string, unknown> {
  const { durationMs: _, ...fields } = summarize(result, performance.now(), self);
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}

test("summarize() has bytes, time, and who ended the tunnel and why", () => {
  const counts = { aToB: 1, bToA: 2 };
  const ended = { sent: 1, received: 2 };
  const summary = summarize(
    { ...counts, reason: "end", by: "a" },
    performance.now() - 1_500,
    "server",
  );
  assertGreaterOrEqual(summary.durationMs, 1_500);
  assert(Number.isInteger(summary.durationMs));
  for (const self of ["server", "agent"] as const) {
    const fields = (result: Pick<PipeResult, "reason" | "by" | "error">) =>
      fieldsOf({ ...counts, ...result }, self);
    assertEquals(fields({ reason: "end", by: "a" }), { ...ended, by: "client", reason: "end" });
    assertEquals(fields({ reason: "end", by: "b" }), { ...ended, by: "target", reason: "end" });
    assertEquals(fields({ reason: "idle" }), { ...ended, reason: "idle" });
    for (const reason of ["half-open", "write-timeout"] as const) {
      assertEquals(fields({ reason, by: "b" }), { ...ended, by: "target", reason });
    }
    assertEquals(
      fields({ reason: "aborted", error: new Error("told to") }),
      { ...ended, by: self, reason: "stopped" },
    );
    assertEquals(
      fields({ reason: "error", by: "a", error: new Error("bad luck") }),
      { ...ended, by: "client", reason: "error", error: "bad luck" },
    );
  }
});

test("summarize() does not take an agent's own answer for the end of a target", () => {
  const line = (result: Pick<PipeResult, "reason" | "by" | "error">) => {
    const { by, reason } = summarize({ aToB: 1, bToA: 2, ...result }, 0, "server", "timeout");
    return `${by} ${reason}`;
  };
  assertEquals(line({ reason: "end", by: "b" }), "target refused");
  const stopped = new StreamStoppedError(1, 0);
  assertEquals(line({ reason: "error", by: "b", error: stopped }), "target refused");
  assertEquals(
    line({ reason: "error", by: "b", error: closed("peer") }),
    "agent connection-closed",
  );
  const reset = new Deno.errors.ConnectionReset("reset");
  assertEquals(line({ reason: "error", by: "a", error: reset }), "client reset");
  assertEquals(line({ reason: "idle" }), "undefined idle");
});

test("summarize() tells a program that was told to stop from a connection that ended", () => {
  const aborted = (by: CloseInfo["by"]) =>
    fieldsOf({ aToB: 0, bToA: 0, reason: "aborted", error: closed(by) }, "agent");
  assertEquals([aborted("local").by, aborted("local").reason], ["agent", "stopped"]);
  assertEquals([aborted("peer").by, aborted("peer").reason], ["server", "connection-closed"]);
  assertEquals([aborted("timeout").by, aborted("timeout").reason], ["server", "connection-lost"]);
});

const cases: readonly (readonly [error: unknown, atServer: string, atAgent: string])[] = [
  [new StreamResetError(1, 0), "target reset", "client reset"],
  [new StreamStoppedError(1, 0), "target reset", "client reset"],
  [new StreamResetError(1, 1), "agent refused", "server refused"],
  [new StreamResetError(1, 2), "server protocol-error", "agent protocol-error"],
  [new StreamStoppedError(1, 2), "server protocol-error", "agent protocol-error"],
  [new StreamResetError(1, 3), "agent moved", "server moved"],
  [new StreamResetError(1, 77), "target reset", "client reset"],
  [closed("local"), "server stopped", "agent stopped"],
  [closed("peer"), "agent connection-closed", "server connection-closed"],
  [closed("timeout"), "agent connection-lost", "server connection-lost"],
  [new ProtocolError("what?"), "agent protocol-error", "server protocol-error"],
  [new ConnectTimeoutError("late"), "agent connect-timeout", "server connect-timeout"],
  [new NotConnectedError("refused", "no"), "target refused", "target refused"],
  [new NotConnectedError("draining", "no"), "agent refused", "agent refused"],
  [new NotConnectedError("bad-request", "no"), "client refused", "client refused"],
  [new NoAgentError("none"), "server no-agent", "agent no-agent"],
  [new NoRouteError({ hostname: "a", port: 1 }), "server no-route", "agent no-route"],
  [new ProxyHeaderError("no header"), "target protocol-error", "client protocol-error"],
  [new Deno.errors.ConnectionReset("reset"), "target reset", "client reset"],
  [new Deno.errors.ConnectionAborted("aborted"), "target reset", "client reset"],
  [new Deno.errors.BrokenPipe("broken"), "target reset", "client reset"],
  [new Deno.errors.TimedOut("silent"), "target connection-lost", "client connection-lost"],
  [new Error("bad luck"), "target error", "client error"],
  ["bad luck", "target error", "client error"],
];

for (const [error, atServer, atAgent] of cases) {
  test(`endingOf() makes of ${String(error)}: ${atServer}, at an agent ${atAgent}`, () => {
    for (
      const [self, by, expected] of [
        ["server", "target", atServer],
        ["agent", "client", atAgent],
      ] as const
    ) {
      const ending = endingOf(error, by, self);
      assertEquals(`${ending.by} ${ending.reason}`, expected);
      if (ending.reason === "stopped") assertEquals(ending.error, undefined);
      else assert(ending.error);
    }
  });
}

test("docs/endings.md explains every reason and every party", () => {
  const source = Deno.readTextFileSync(new URL("../../lib/tunnel/errors.ts", import.meta.url));
  const document = Deno.readTextFileSync(new URL("../../docs/endings.md", import.meta.url));
  const reasons = [...source.matchAll(/^ \* - `([a-z-]+)`:/gm)].map((match) => match[1]!);
  assertGreaterOrEqual(reasons.length, 14);
  for (const reason of reasons) assertStringIncludes(document, `| \`${reason}\` `);
  for (const party of ["client", "server", "agent", "target"]) {
    assertStringIncludes(document, `\`${party}\``);
  }
});
