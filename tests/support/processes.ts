// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { fileURLToPath } from "node:url";
import project from "../../deno.json" with { type: "json" };
import { eventually } from "./eventually.ts";

const root = new URL("../../", import.meta.url);

/** A child process whose lines are kept, and which is gone after the disposal. */
export class ChildProgram implements AsyncDisposable {
  /** What it has written so far, stdout and stderr, line by line. */
  readonly lines: string[] = [];
  readonly status: Promise<Deno.CommandStatus>;
  readonly #child: Deno.ChildProcess;
  readonly #reading: Promise<void>;

  constructor(command: string, args: string[], env: Record<string, string> = {}) {
    this.#child = new Deno.Command(command, {
      args,
      env,
      cwd: root,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.status = this.#child.status;
    this.#reading = Promise.all([this.#read(this.#child.stdout), this.#read(this.#child.stderr)])
      .then(() => {});
  }

  get pid(): number {
    return this.#child.pid;
  }

  kill(signal: Deno.Signal): void {
    try {
      this.#child.kill(signal);
    } catch {
      // It has ended.
    }
  }

  /** The first line that matches, now or soon. */
  line(pattern: RegExp, timeoutMs?: number): Promise<RegExpExecArray> {
    return eventually(
      `a line like ${pattern} among:\n${this.lines.join("\n")}`,
      () => this.lines.map((line) => pattern.exec(line)).find((match) => match !== null),
      timeoutMs,
    );
  }

  async #read(stream: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void> {
    let rest = "";
    for await (const text of stream.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      this.lines.push(...lines);
    }
    if (rest) this.lines.push(rest);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill("SIGTERM");
    const timer = setTimeout(() => this.kill("SIGKILL"), 5_000);
    await this.status;
    await this.#reading;
    clearTimeout(timer);
  }
}

/** The arguments for Deno that start a program with the permissions of its task in `deno.json`, and a test's own flags. */
export function programArguments(
  task: "server" | "agent" | "passthrough",
  flags: Record<string, string | number>,
): string[] {
  const words = project.tasks[task].split("&&").at(-1)!.trim().split(/\s+/);
  const program = words.findIndex((word) => word.endsWith(".ts"));
  return [
    ...words.slice(words.indexOf("run"), program + 1),
    ...Object.entries(flags).map(([name, value]) => `--${name}=${value}`),
  ];
}

/** Starts a program. */
export function startProgram(
  task: "server" | "agent" | "passthrough",
  flags: Record<string, string | number>,
  env: Record<string, string> = {},
): ChildProgram {
  return new ChildProgram(Deno.execPath(), programArguments(task, flags), env);
}

/** Has a server listen where nobody else does. */
export const anyPort = { "listen-tcp": "127.0.0.1:0", "listen-quic": "127.0.0.1:0" };

/** Flags of a server whose certificates `makeCerts()` has made. */
export function serverFlags(dir: string) {
  return {
    "cert-file": `${dir}/server.pem`,
    "cert-key": `${dir}/server.key`,
    "client-ca-file": `${dir}/ca.pem`,
  };
}

/** The same of an agent. */
export function agentFlags(dir: string) {
  return {
    "cert-file": `${dir}/client.pem`,
    "cert-key": `${dir}/client.key`,
    "ca-file": `${dir}/ca.pem`,
  };
}

/** Starts `tests/support/origin.ts` and tells its port. */
export async function startOrigin(): Promise<ChildProgram & { readonly port: number }> {
  const origin = new ChildProgram(Deno.execPath(), [
    "run",
    "--no-prompt",
    "--allow-net=127.0.0.1",
    fileURLToPath(new URL("origin.ts", import.meta.url)),
  ]);
  const [, port] = await origin.line(/^origin on port (\d+)$/);
  return Object.assign(origin, { port: Number(port) });
}
