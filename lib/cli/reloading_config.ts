// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The file of `--config`, read again while the program runs. */
import { isDeepStrictEqual } from "node:util";
import { messageOf } from "../errors.ts";
import { logger } from "../log.ts";
import { inSlices } from "../slices.ts";
import { sleep } from "../wait.ts";
import type { FlagTable, FlagValues } from "./flag.ts";

/** How often the file is read. */
const RELOAD_INTERVAL_MS = 10_000;

const log = logger("config");

/** What of the values of a program may change while it runs. */
export interface Followed<T extends FlagTable> {
  /** Flags that it follows; a predicate says whether it can follow from one value to another. */
  readonly live: { readonly [K in keyof T]?: true | ((from: unknown, to: unknown) => boolean) };
  /**
   * Takes over the values, from one moment to the next.
   *
   * @throws {UsageError} when they contradict each other: then it has taken over nothing
   */
  apply(values: FlagValues<T>): Promise<void> | void;
}

export interface ReloadingConfigOptions<T extends FlagTable> {
  readonly flags: T;
  readonly values: FlagValues<T>;
  /**
   * Reads command line, environment and file once more.
   *
   * @throws {UsageError} when they are not right
   */
  read(): Promise<FlagValues<T>>;
}

/** Values of flags that follow a file. What is wrong is refused whole, and the old ones stay. */
export class ReloadingConfig<T extends FlagTable> {
  readonly #flags: T;
  readonly #read: () => Promise<FlagValues<T>>;
  /** In use. */
  #values: FlagValues<T>;
  /** What has been logged last of a file that is refused. */
  #refused: string | undefined;
  /** Flags that have been said to need a restart. */
  #waiting = "";
  #last: Promise<void> = Promise.resolve();

  constructor({ flags, values, read }: ReloadingConfigOptions<T>) {
    this.#flags = flags;
    this.#values = values;
    this.#read = read;
  }

  /** Reads the file at intervals and on SIGHUP until the signal aborts. Never rejects. */
  async watch(
    followed: Followed<T>,
    { signal, onHangup, intervalMs = RELOAD_INTERVAL_MS }: {
      readonly signal: AbortSignal;
      readonly onHangup?: (listener: () => void) => void;
      /** @default {10000} */
      readonly intervalMs?: number;
    },
  ): Promise<void> {
    onHangup?.(() => {
      if (!signal.aborted) void this.reload(followed, true);
    });
    while (!signal.aborted) {
      await sleep(intervalMs, signal);
      if (!signal.aborted) await this.reload(followed);
    }
  }

  /**
   * Reads the file now. Never rejects.
   *
   * @param isAsked logs the outcome in any case
   */
  reload(followed: Followed<T>, isAsked = false): Promise<void> {
    // One after the other, so that nothing older replaces what is newer.
    return this.#last = this.#last.then(() => this.#reload(followed, isAsked));
  }

  async #reload({ live, apply }: Followed<T>, isAsked: boolean): Promise<void> {
    try {
      const next = await this.#read();
      const changed: string[] = [];
      for (const key of Object.keys(this.#flags)) {
        if (!await isSame(this.#values[key], next[key])) changed.push(key);
      }
      const isLive = (key: string) => {
        const can = live[key];
        return typeof can === "function" ? can(this.#values[key], next[key]) : can === true;
      };
      const followed = changed.filter(isLive);
      if (followed.length > 0) {
        const taken = Object.fromEntries(followed.map((key) => [key, next[key]]));
        const values = { ...this.#values, ...taken };
        await apply(values);
        this.#values = values;
      }
      if (followed.length > 0) log.info("config reloaded", { flags: this.#namesOf(followed) });
      else if (isAsked || this.#refused !== undefined) log.info("config unchanged");
      this.#refused = undefined;
      this.#warnOf(changed.filter((key) => !followed.includes(key)), isAsked);
    } catch (error) {
      const reason = messageOf(error);
      if (reason === this.#refused && !isAsked) return;
      this.#refused = reason;
      log.error("config not reloaded", { error: reason });
    }
  }

  #warnOf(keys: readonly string[], isAsked: boolean): void {
    const flags = this.#namesOf(keys);
    if (flags !== "" && (isAsked || flags !== this.#waiting)) {
      log.warn("changed flags need a restart", { flags });
    }
    this.#waiting = flags;
  }

  #namesOf(keys: readonly string[]): string {
    return keys.map((key) => this.#flags[key]!.name).join(",");
  }
}

async function isSame(a: unknown, b: unknown): Promise<boolean> {
  if (!Array.isArray(a) || !Array.isArray(b)) return isDeepStrictEqual(a, b);
  if (a.length !== b.length) return false;
  for await (const [i, item] of inSlices(a.entries())) {
    if (!isDeepStrictEqual(item, b[i])) return false;
  }
  return true;
}
