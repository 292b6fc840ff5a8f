// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { join } from "node:path";
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { eventually } from "../support/eventually.ts";

const demoDir = join(import.meta.dirname!, "../../demo");
const PERMISSIONS = ["--allow-net=127.0.0.1", "--allow-run", `--allow-write=${demoDir}`];
/** More than any of it takes on a busy machine. */
const TIMEOUT_MS = 90_000;

/** The demo in a process of its own, as `deno task demo` starts it. */
class Demo implements AsyncDisposable {
  #output = "";
  readonly #process: Deno.ChildProcess;
  readonly #read: Promise<unknown>;
  #exited = false;

  constructor(...args: string[]) {
    this.#process = new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-prompt", ...PERMISSIONS, join(demoDir, "main.ts"), ...args],
      env: { NO_COLOR: "1" },
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#read = Promise.all([this.#keep(this.#process.stdout), this.#keep(this.#process.stderr)]);
    this.#process.status.then(() => this.#exited = true);
  }

  get pid(): number {
    return this.#process.pid;
  }

  get output(): string {
    return this.#output;
  }

  /** The processes that its output names, itself among them. */
  get pids(): number[] {
    return [...new Set(Array.from(this.#output.matchAll(/pid (\d+)/g), ([, pid]) => Number(pid)))];
  }

  async #keep(stream: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void> {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) this.#output += text;
  }

  /** Waits for text in the output, and gives what the pattern's first group matched. */
  shows(pattern: RegExp): Promise<string> {
    return eventually(`the demo shows ${pattern}, not ${JSON.stringify(this.#output)}`, () => {
      const match = pattern.exec(this.#output);
      return match && (match[1] ?? match[0]);
    }, TIMEOUT_MS);
  }

  signal(name: Deno.Signal): void {
    this.#process.kill(name);
  }

  /** Waits for its end. */
  async code(): Promise<number> {
    await eventually("the demo ends", () => this.#exited, TIMEOUT_MS);
    const { code } = await this.#process.status;
    await this.#read;
    return code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#exited) this.#process.kill("SIGTERM");
    await this.code();
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
  const { code, stdout } = await new Deno.Command("sh", {
    args: ["-c", `${command} --silent --show-error --max-time 20`],
    stderr: "inherit",
  }).output();
  assertEquals(code, 0);
  return new TextDecoder().decode(stdout);
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
  assertMatch(demo.output, /\n6 of 6 requests went as they should\n$/);
  assertEquals(demo.pids.length, 6);
  assertNothingLeft(demo);
});

Deno.test("demo stays up with commands that work as they are, until SIGINT", async () => {
  await using demo = new Demo();
  await demo.shows(/Ctrl-C ends everything/);
  for (const command of [/^ +(curl -p .+)$/m, /^ +(curl --noproxy .+)$/m]) {
    assertStringIncludes(await curl(await demo.shows(command)), "Hello from the origin");
  }
  demo.signal("SIGINT");
  assertEquals(await demo.code(), 0, demo.output);
  assertMatch(demo.output, /stopped by SIGINT, everything ended\n$/);
  assertNothingLeft(demo);
});

Deno.test("demo ends in order when SIGTERM comes in the midst of it", async () => {
  await using demo = new Demo();
  await demo.shows(/pid \d+/);
  demo.signal("SIGTERM");
  assertEquals(await demo.code(), 0, demo.output);
  assertNothingLeft(demo);
});

Deno.test("demo --once that is interrupted before its end has not succeeded", async () => {
  await using demo = new Demo("--once");
  await demo.shows(/starting/);
  demo.signal("SIGTERM");
  assertEquals(await demo.code(), 1, demo.output);
  assertNothingLeft(demo);
});

Deno.test("demo fails with the last log lines of a program that ends on its own", async () => {
  await using demo = new Demo();
  await demo.shows(/Ctrl-C ends everything/);
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
  await demo.shows(/Ctrl-C ends everything/);
  demo.signal("SIGKILL");
  await demo.code();
  await eventually("its processes end on their own", () => !demo.pids.some(isRunning));
  for (const name of filesOf(demo)) await Deno.remove(join(demoDir, name), { recursive: true });
});

Deno.test("demo refuses arguments it does not know", async () => {
  await using demo = new Demo("--twice");
  assertEquals(await demo.code(), 2);
  assertStringIncludes(demo.output, "unknown arguments: --twice");
});
