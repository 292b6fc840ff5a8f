// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The report of `--check`: a line per step, and at the end what to do. */
import { oneLine } from "../../printable.ts";
import { messageOf } from "../../errors.ts";
import { within } from "../../wait.ts";

/** Outcome of a step. */
export type Mark = "ok" | "warn" | "FAIL" | "skipped";

/** Result of a step that passed. */
export interface Found<T = true> {
  readonly found: string;
  /** What later steps need. */
  readonly value: T;
  /** Whether it needs attention. @default {false} */
  readonly isWarning?: boolean;
}

/** A step that failed. */
export class StepError extends Error {
  override readonly name = "StepError";
  /** @param fix what to do about it */
  constructor(message: string, readonly fix: string, options?: ErrorOptions) {
    super(message, options);
  }
}

/** Far longer than the timeouts of the steps themselves. */
const STEP_TIMEOUT_MS = 30_000;

const MARK_COLUMNS = 9;

/** One line of the report. Foreign text, such as names in certificates, cannot break it. */
export function formatStep(mark: Mark, step: string, found: string, ms?: number): string {
  const time = ms === undefined ? "" : ` (${Math.round(ms)} ms)`;
  return oneLine(`${mark.padEnd(MARK_COLUMNS)}${step}: ${found}${time}`);
}

/** The step that runs, in the columns of {@linkcode formatStep}. */
export function formatRunning(sign: string, step: string): string {
  return oneLine(`${sign.padEnd(MARK_COLUMNS)}${step}`);
}

/** The last line of the report. */
export function formatVerdict(fix: string | undefined, warnings: number): string {
  if (fix !== undefined) return `fix this first: ${oneLine(fix)}`;
  if (warnings === 0) return "all checks passed";
  return `all checks passed, with ${warnings === 1 ? "1 warning" : `${warnings} warnings`}`;
}

/** Where a report goes. */
export interface ReportOutput {
  /** Takes each line, without its end. */
  write(line: string): void;
  /** Is told of each step when it begins, and with `undefined` that it has ended. */
  running?(step: string | undefined): void;
}

/** Runs steps, reports each at once, and keeps what to fix first. */
export class Report {
  readonly #output: ReportOutput;
  readonly #now: () => number;
  #fix: string | undefined;
  #warnings = 0;

  /** @param now the time in milliseconds, by any clock */
  constructor(output: ReportOutput, now: () => number = () => performance.now()) {
    this.#output = output;
    this.#now = now;
  }

  /**
   * Runs a step.
   *
   * @returns what it has found for later steps, or `undefined` when it has failed
   */
  async step<T>(
    name: string,
    run: () => Found<T> | Promise<Found<T>>,
    timeoutMs = STEP_TIMEOUT_MS,
  ): Promise<T | undefined> {
    const since = this.#now();
    const took = () => this.#now() - since;
    this.#output.running?.(name);
    try {
      const late = () =>
        new StepError(`not finished within ${timeoutMs} ms`, `find out why ${name} hangs`);
      const { found, value, isWarning } = await within(timeoutMs, Promise.try(run), late);
      if (isWarning) this.#warnings++;
      this.#output.write(formatStep(isWarning ? "warn" : "ok", name, found, took()));
      return value;
    } catch (error) {
      this.#output.write(formatStep("FAIL", name, messageOf(error), took()));
      this.#fix ??= error instanceof StepError ? error.fix : messageOf(error);
      return undefined;
    } finally {
      this.#output.running?.(undefined);
    }
  }

  /** Runs a step that needs what an earlier one has found; without it, skips it. */
  async after<N, T>(
    needed: N | undefined,
    name: string,
    run: (needed: N) => Found<T> | Promise<Found<T>>,
    timeoutMs?: number,
  ): Promise<T | undefined> {
    if (needed !== undefined) return await this.step(name, () => run(needed), timeoutMs);
    this.skip(name, "an earlier step failed");
    return undefined;
  }

  /** Reports a skipped step. */
  skip(name: string, why: string): void {
    this.#output.write(formatStep("skipped", name, why));
  }

  /** Writes the last line, and returns whether no step failed. */
  end(): boolean {
    this.#output.write(formatVerdict(this.#fix, this.#warnings));
    return this.#fix === undefined;
  }
}
