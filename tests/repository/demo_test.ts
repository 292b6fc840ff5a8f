// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { join } from "node:path";
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Demo, demoDir } from "../support/demo.ts";
import { eventually } from "../support/eventually.ts";

function isRunning(pid: number): boolean {
  try {
    Deno.kill(pid, "SIGCONT"); // does nothing to one that runs
    return true;
  } catch {
    return false;
  }
}

/** No process is left, and none of the files that bear the demo's process id. */
function assertNothingLeft(demo: Demo): void {
  assertEquals(demo.pids.filter(isRunning), []);
  assertEquals(filesOf(demo), []);
}

function filesOf({ pid }: Demo): string[] {
  return Array.from(Deno.readDirSync(demoDir), ({ name }) => name)
    .filter((name) => name.startsWith(`.run-${pid}-`));
}

Deno.test("demo --once shows two networks behind one server and every request, and ends with 0", async () => {
  await using demo = new Demo("--once");
  assertEquals(await demo.code(), 0, demo.output);
  for (const name of ["proxy-server", "proxy-agent", "proxy-passthrough", "origin"]) {
    assertStringIncludes(demo.output, name);
  }
  assertEquals(
    Array.from(demo.output.matchAll(/^The network (\w+)/gm), ([, name]) => name),
    ["office", "lab"],
  );
  const outcomes = demo.output.matchAll(/^ {2}(ok|NO) {2}(\S+ \S+)/gm);
  assertEquals(Array.from(outcomes, ([, mark, name]) => `${mark} ${name}`), [
    "ok GET /",
    "ok GET /large",
    "ok POST /upload",
    "ok CONNECT nowhere",
    "ok GET /",
    "ok GET /large",
  ]);
  assertMatch(demo.output, /502 127\.0\.0\.1:1: connection refused/);
  assertMatch(demo.output, /\n6 of 6 checks passed\n$/);
  assertEquals(demo.pids.length, 5);
  assertNothingLeft(demo);
});

Deno.test("demo stays up until SIGINT", async () => {
  await using demo = new Demo();
  await demo.shows(/Press Ctrl-C to stop/);
  assert(demo.pids.every(isRunning));
  demo.kill("SIGINT");
  assertEquals(await demo.code(), 0, demo.output);
  assertMatch(demo.output, /stopped by SIGINT, all processes have exited\n$/);
  assertNothingLeft(demo);
});

Deno.test("demo ends in order when SIGTERM comes in the midst of it", async () => {
  await using demo = new Demo();
  await demo.shows(/pid \d+/);
  demo.kill("SIGTERM");
  assertEquals(await demo.code(), 0, demo.output);
  assertNothingLeft(demo);
});

Deno.test("demo --once that is interrupted before its end has not succeeded", async () => {
  await using demo = new Demo("--once");
  await demo.shows(/starting/);
  demo.kill("SIGTERM");
  assertEquals(await demo.code(), 1, demo.output);
  assertNothingLeft(demo);
});

Deno.test("demo fails with the last log lines of a program that ends on its own", async () => {
  await using demo = new Demo();
  await demo.shows(/Press Ctrl-C to stop/);
  const [, agent] = demo.pids;
  Deno.kill(agent!, "SIGKILL");
  assertEquals(await demo.code(), 1, demo.output);
  assertMatch(
    demo.output,
    /\nfailed: proxy-agent .+ was ended by SIGKILL; its last log lines:\n.+connected to quic server/s,
  );
  assertNothingLeft(demo);
});

Deno.test("demo leaves no process behind when it is killed", async () => {
  await using demo = new Demo();
  await demo.shows(/Press Ctrl-C to stop/);
  demo.kill("SIGKILL");
  await demo.code();
  await eventually("its processes end on their own", () => !demo.pids.some(isRunning));
  for (const name of filesOf(demo)) await Deno.remove(join(demoDir, name), { recursive: true });
});

Deno.test("demo refuses arguments it does not know", async () => {
  await using demo = new Demo("--twice");
  assertEquals(await demo.code(), 2);
  assertStringIncludes(demo.output, "unknown arguments: --twice");
});
