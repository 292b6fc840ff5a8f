// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { join } from "node:path";
import { deadline } from "@std/async/deadline";
import { ChildProgram } from "../../tools/child_program.ts";

/** Where the demo is, and has its files while it runs. */
export const demoDir = join(import.meta.dirname!, "../../demo");
const PERMISSIONS = ["--allow-net=127.0.0.1", "--allow-run", `--allow-write=${demoDir}`];
/** More than any of it takes on a busy machine. */
const TIMEOUT_MS = 90_000;

/** The demo in a process of its own, as `deno task demo` starts it. */
export class Demo extends ChildProgram {
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
