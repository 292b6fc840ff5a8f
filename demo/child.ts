// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { ChildProgram, describeEnd } from "../tools/child_program.ts";

/** Lines of a program's log that are kept. */
const KEPT_LINES = 200;

/** A program that the demo starts. */
export interface ChildOptions {
  readonly name: string;
  /** Module, relative to this one. */
  readonly module: string;
  /** What it is allowed to do. */
  readonly permissions: readonly string[];
  readonly args?: readonly string[];
}

/** A program ended that should not have. */
export class ChildEndedError extends Error {
  override readonly name = "ChildEndedError";
}

/** A program of the demo in a process of its own; it is ended when this is disposed of. */
export class Child extends ChildProgram {
  #stopping = false;

  /** @param failed called if it ends without having been told to */
  constructor(options: ChildOptions, failed: (error: ChildEndedError) => void) {
    const { name, module, permissions, args = [] } = options;
    super(Deno.execPath(), [
      "run",
      "--quiet",
      "--no-prompt",
      `--preload=${import.meta.resolve("./leash.ts")}`,
      ...permissions,
      import.meta.resolve(module),
      ...args,
    ], {
      name,
      env: { NO_COLOR: "1" },
      stdin: "piped", // the leash: never written to, and open for as long as the demo lives
      stdout: "null",
      maxLines: KEPT_LINES,
      // A Ctrl-C is for the demo alone, which then stops its children in its own way.
      detached: true,
    });
    this.status.then((status) => {
      if (this.#stopping) return;
      const how = `${describeEnd(status)}${this.lastLines}`;
      failed(new ChildEndedError(`${name} (pid ${this.pid}) ${how}`));
    });
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping = true;
    await super[Symbol.asyncDispose]();
  }
}
