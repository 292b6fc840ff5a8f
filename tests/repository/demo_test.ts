// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { join } from "node:path";
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { ChildProgram } from "../../tools/child_program.ts";
import { commandOutput } from "../../tools/command_output.ts";
import { eventually } from "../support/eventually.ts";

const demoDir = join(import.meta.dirname!, "../../demo");
const PERMISSIONS = ["--allow-net=127.0.0.1", "--allow-run", `--allow-write=${demoDir}`];
/** More than any of it takes on a busy machine. */
const TIMEOUT_MS = 90_000;

/** The demo in a process of its own, as `deno task demo` starts it. */
class Demo extends ChildProgram {
  constructor(...args: string[]) {
    const words = ["run", "--no-prompt", ...PERMISSIONS, join(demoDir, "main.ts"), ...args];
    super(Deno.execPath(), words, {
      name: "demo",
      env: { NO_COLOR: "1" },
      stopTimeoutMs: TIMEOUT_MS,
    });
  }

  get output(): string {
    return this.lines.map((line) => `${line}\n`).join("");
  }

  /** The processes that its output names, itself among them. */
  get pids(): number[] {
    return [...new Set(Array.from(this.output.matchAll(/pid (\d+)/g), ([, pid]) => Number(pid)))];
  }

  /** Waits for a line of the output, and gives what the pattern's first group matched. */
  async shows(pattern: RegExp): Promise<string> {
    const [all, first] = await this.line(pattern, TIMEOUT_MS);
    return first ?? all;
  }

  /** Waits for its end. */
  async code(): Promise<number> {
    return (await deadline(this.status, TIMEOUT_MS)).code;
  }
}

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

async function curl(command: string): Promise<string> {
  const script = `${command} --silent --show-error --max-time 20`;
  const { code, stdout, stderr } = await commandOutput("sh", ["-c", script]);
  assertEquals(code, 0, stderr);
  return stdout;
}

Deno.test("demo --once shows both paths and every request, and ends with 0", async () => {
  await using demo = new Demo("--once");
  assertEquals(await demo.code(), 0, demo.output);
  for (const name of ["proxy-server", "proxy-agent", "proxy-passthrough", "origin"]) {
    assertStringIncludes(demo.output, name);
  }
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
  assertEquals(demo.pids.length, 6);
  assertNothingLeft(demo);
});

Deno.test("demo stays up with commands that work as they are, until SIGINT", async () => {
  await using demo = new Demo();
  await demo.shows(/Press Ctrl-C to stop/);
  for (const command of [/^ +(curl -p .+)$/, /^ +(curl --noproxy .+)$/]) {
    assertStringIncludes(await curl(await demo.shows(command)), "Hello from the origin");
  }
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
