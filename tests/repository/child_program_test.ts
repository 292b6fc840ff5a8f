// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { ChildProgram, type ChildProgramOptions } from "../../tools/child_program.ts";

function test(name: string, fn: () => Promise<void> | void): void {
  const ignore = Deno.build.os === "windows";
  Deno.test({ name: `ChildProgram ${name}`, ignore, permissions: { run: true }, fn });
}

const shell = (script: string, options?: ChildProgramOptions) =>
  new ChildProgram("sh", ["-c", script], { name: "script", ...options });

test("keeps the lines of stdout and stderr, the last one without an end too", async () => {
  const heard: string[] = [];
  const onLine = (line: string) => heard.push(line);
  await using program = shell("echo one; sleep 0.1; printf 'two\\n\\nthree' >&2; exit 7", {
    onLine,
  });
  assertEquals((await program.status).code, 7);
  assertEquals(program.lines, ["one", "two", "", "three"]);
  assertEquals(heard, program.lines);
});

test("drops the oldest lines, and stdout where it is not asked for", async () => {
  await using program = shell("echo out; seq 5 >&2", { stdout: "null", maxLines: 2 });
  await program.status;
  assertEquals(program.lines, ["4", "5"]);
});

test("line() finds a line that is there, and one that is still to come", async () => {
  await using program = shell("echo port 1; read -r _; echo port 2", { stdin: "piped" });
  for (let i = 0; i < 2; i++) assertEquals((await program.line(/port (\d)/))[1], "1");
  const second = program.line(/port 2/);
  await program.end("SIGTERM", 5_000);
  const message = "script was ended by SIGTERM before it wrote /port 2/; its last log lines:\n";
  await assertRejects(() => second, Error, `${message}    port 1`);
});

test("line() finds what was written last, and tells of an end without it", async () => {
  await using program = shell("echo last");
  await program.line(/last/);
  await program.status;
  await program.line(/last/);
  await assertRejects(() => program.line(/more/), Error, "ended with exit code 0 before");
});

test("line() gives up after a time, and when its signal aborts", async () => {
  await using program = shell("exec sleep 60");
  const late = "script took more than 20 ms before it wrote /x/; it logged nothing";
  await assertRejects(() => program.line(/x/, 20), Error, late);
  const controller = new AbortController();
  const waiting = program.line(/x/, 60_000, controller.signal);
  controller.abort(new Error("no more"));
  await assertRejects(() => waiting, Error, "no more");
});

test("is killed where it does not stop", async () => {
  const program = shell("trap '' TERM; echo ready; while :; do sleep 0.05; done", {
    stopTimeoutMs: 50,
  });
  await program.line(/ready/);
  await program[Symbol.asyncDispose]();
  assertEquals((await program.status).signal, "SIGKILL");
  program.kill("SIGTERM"); // does nothing to one that has ended
});

test("that does not exist is an error at once", () => {
  const start = () => new ChildProgram("no-such-command", []);
  const { message } = assertThrows(start, Deno.errors.NotFound);
  assertStringIncludes(message, "no-such-command");
});
