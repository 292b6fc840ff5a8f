// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What a program does with an error that nothing in it handles. */
import { assertEquals, assertMatch } from "@std/assert";
import { fileURLToPath } from "node:url";
import { ChildProgram } from "../support/processes.ts";

const script = fileURLToPath(new URL("../support/unhandled_errors.ts", import.meta.url));

Deno.test("runProgram() logs errors that nothing handles, and continues", async () => {
  await using program = new ChildProgram(Deno.execPath(), [
    "run",
    "--config=tests/deno.json",
    "--no-prompt",
    "--no-check",
    "--allow-all",
    script,
    "--cert-file=c",
    "--cert-key=k",
    "--ca-file=a",
  ]);
  await program.line(
    /ERR program "unhandled error" error="a rejection" times=1 stack="Error: a rej/,
  );
  await program.line(/ERR program "unhandled error" error="an exception" times=1 stack="Error: /);
  await program.line(/^still here$/);
  program.kill("SIGTERM");
  const { code } = await program.status;
  assertEquals(code, 0);
  assertMatch(program.lines.join("\n"), /still here/);
});
