// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { mergeReadableStreams } from "@std/streams/merge-readable-streams";
import { eventually } from "../../support/eventually.ts";
import { pathOf, type Program } from "./programs.ts";

/** A program that is talked to through its stdin and stdout while it runs. */
export class Dialogue implements AsyncDisposable {
  readonly status: Promise<Deno.CommandStatus>;
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array<ArrayBuffer>>;
  readonly #reading: Promise<void>;
  #heard = "";
  #closed = false;

  /** @param timeoutMs how long it may run before it is ended, default 30 s */
  constructor(program: Program, args: readonly string[], timeoutMs = 30_000) {
    this.#child = new Deno.Command(pathOf(program), {
      args: [...args],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
      signal: AbortSignal.timeout(timeoutMs),
    }).spawn();
    this.status = this.#child.status;
    this.#stdin = this.#child.stdin.getWriter();
    this.#reading = this.#read();
  }

  /** All that it has written so far, stdout and stderr. */
  get heard(): string {
    return this.#heard;
  }

  async say(line: string): Promise<void> {
    await this.#stdin.write(new TextEncoder().encode(`${line}\n`));
  }

  /** Waits until what it has written matches. */
  async hear(pattern: RegExp): Promise<RegExpExecArray> {
    try {
      return await eventually(`something like ${pattern}`, () => pattern.exec(this.#heard));
    } catch (error) {
      throw new Error(`${(error as Error).message} among:\n${this.#heard}`, { cause: error });
    }
  }

  /** Closes its stdin. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#stdin.close();
  }

  async #read(): Promise<void> {
    const texts = [this.#child.stdout, this.#child.stderr]
      .map((stream) => stream.pipeThrough(new TextDecoderStream()));
    for await (const text of mergeReadableStreams(...texts)) this.#heard += text;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    if (!this.#closed) await this.#stdin.close().catch(() => {});
    await this.status;
    await this.#reading;
  }
}
