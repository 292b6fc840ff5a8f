// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { messageOf } from "../lib/errors.ts";
import { cpuTimes } from "./cpu.ts";
import type { CpuTime, Result } from "./report.ts";
import { download, WrongBytesError } from "./transfer.ts";
import type { Tunnel } from "./tunnels.ts";

/** Lets a tunnel finish what it does after its last byte, and shows what else the machine does. */
const PAUSE_MS = 400;
const MAX_PAUSES = 8;

/** The part of the machine's CPU time in a pause from which on it is busy with something else. */
const BUSY = 0.2;

/** Of a run's bytes, the part that is transferred once before the clock runs. */
const WARM_UP = 0.1;

export interface SubjectOptions {
  readonly name: string;
  /** Bytes of each run. */
  readonly bytes: number;
  /** Runs that may be repeated, in a new tunnel, because they did not complete. */
  readonly maxFailed: number;
  /** Starts what is measured. */
  readonly start: () => Promise<Tunnel>;
}

/** What is measured, and how it went so far. */
export class Subject implements AsyncDisposable {
  readonly #options: SubjectOptions;
  readonly #mbPerSecond: number[] = [];
  readonly #cpu: CpuTime[] = [];
  readonly #failed: string[] = [];
  #uncaught = 0;
  #busy = 0;
  #tunnel: Tunnel | undefined;

  constructor(options: SubjectOptions) {
    this.#options = options;
  }

  /** Starts the tunnel and has it carry some bytes. */
  async open(signal: AbortSignal): Promise<void> {
    this.#tunnel = await this.#options.start();
    await download(this.#tunnel.port, this.#options.bytes * WARM_UP, signal);
  }

  /**
   * Measures one run; the result is its throughput in MB/s.
   *
   * @throws {Error} when bytes are wrong, or a run that may not be repeated did not complete
   */
  async run(signal: AbortSignal): Promise<number> {
    const { name, maxFailed } = this.#options;
    for (;;) {
      try {
        return await this.#run(signal);
      } catch (error) {
        signal.throwIfAborted();
        const reason = messageOf(error);
        if (error instanceof WrongBytesError || this.#failed.length >= maxFailed) {
          const said = this.#tunnel?.programs.flatMap((program) => program.lines(/./)) ?? [];
          throw new Error([`${name}: ${reason}`, ...said].join("\n"), { cause: error });
        }
        this.#failed.push(reason);
      }
      await this.#close();
      await this.open(signal);
    }
  }

  get result(): Result {
    const { name, bytes } = this.#options;
    return {
      name,
      bytes,
      mbPerSecond: this.#mbPerSecond,
      cpu: this.#cpu,
      failed: this.#failed,
      uncaught: this.#uncaught + this.#uncaughtNow(),
      busy: this.#busy,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close();
  }

  async #run(signal: AbortSignal): Promise<number> {
    const { port, programs } = this.#tunnel!;
    const pids = programs.map((program) => program.pid);
    if (!await quiet()) this.#busy++;
    const before = await cpuTimes(pids);
    const seconds = await download(port, this.#options.bytes, signal);
    const after = await cpuTimes(pids);
    if (before && after && programs.length === 2) {
      const [server, agent] = after.processes.map((end, i) => end - before.processes[i]!);
      this.#cpu.push({ server: server!, agent: agent! });
    }
    const mbPerSecond = this.#options.bytes / 1e6 / seconds;
    this.#mbPerSecond.push(mbPerSecond);
    return mbPerSecond;
  }

  #uncaughtNow(): number {
    const programs = this.#tunnel?.programs ?? [];
    return programs.reduce((sum, program) => sum + program.lines(/ "uncaught" /).length, 0);
  }

  async #close(): Promise<void> {
    this.#uncaught += this.#uncaughtNow();
    const tunnel = this.#tunnel;
    this.#tunnel = undefined;
    await tunnel?.[Symbol.asyncDispose]();
  }
}

/** Waits until the machine has nothing else to do, for some time at most; false when it still has. */
async function quiet(): Promise<boolean> {
  for (let i = 0; i < MAX_PAUSES; i++) {
    const from = await cpuTimes();
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    const to = await cpuTimes();
    if (!from || !to) return true;
    const busy = to.busy - from.busy;
    if (busy / (busy + to.idle - from.idle) < BUSY) return true;
  }
  return false;
}
