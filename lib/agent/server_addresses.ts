// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import {
  type Authority,
  formatAuthority,
  formatSocketAddress,
  parseAuthority,
} from "../net/authority.ts";
import { backoffDelayMs } from "../backoff.ts";
import { messageOf } from "../errors.ts";
import { FailureStreak } from "./failure_streak.ts";
import { socketAddress } from "../net/ip_address.ts";
import type { Logger } from "../log.ts";
import { TaskGroup } from "../task_group.ts";
import { sleep, within } from "../wait.ts";

/**
 * Whether a server is connected to by its name, with no address: without a lookup, while lookups
 * have found none, or not.
 */
export type ByName = "always" | "unresolved" | "never";

export interface ServerAddressesOptions {
  /** Names or IP addresses, and ports. */
  readonly servers: readonly Authority[];
  /** All IP addresses of a name, 4 or 16 bytes each. Rejects when the signal aborts. */
  readonly resolve: (name: string, signal: AbortSignal) => Promise<readonly Uint8Array[]>;
  /** How a server with a name is dealt with. @default {"never"} */
  readonly byName?: (server: Authority) => ByName;
  /**
   * Keeps a connection to an address. When the signal aborts, because the address no longer belongs
   * to a server or everything ends, it makes no new connection and resolves once it has none. Must
   * not reject.
   */
  readonly keepConnected: (address: Authority, signal: AbortSignal) => Promise<void>;
  readonly log: Logger;
  /** Ends everything. */
  readonly signal: AbortSignal;
  /** Time after which a name is resolved again. @default {30000} */
  readonly refreshMs?: number;
  /** Time that a lookup may take. @default {5000} */
  readonly resolveTimeoutMs?: number;
  /** Addresses that are connected at a time; further ones are left out. @default {64} */
  readonly maxAddresses?: number;
  /** Source of jitter, 0 to 1. @default {Math.random} */
  readonly random?: () => number;
  /** Waits; resolves early when the signal aborts. */
  readonly sleep?: (ms: number, signal: AbortSignal) => Promise<void>;
}

const defaults = {
  byName: (): ByName => "never",
  refreshMs: 30_000,
  resolveTimeoutMs: 5_000,
  maxAddresses: 64,
  random: Math.random,
  sleep,
};

/** Pauses after failed lookups in a row. */
const RETRY = { minMs: 250, maxMs: 10_000 };

/** Time between two lookups of a name, whatever the reason for the second. */
const MIN_PAUSE_MS = 1_000;

const BY_NAME = "the HTTP proxy is asked for the name, over TCP; UDP needs an address";

/** One of the options' servers. */
interface ServerEntry {
  readonly server: Authority;
  /** What it resolved to last, each address as the keys of the tasks have it. */
  addresses: readonly string[];
  /** Aborts when it is to be resolved soon. */
  wake: AbortController;
}

/**
 * Runs one task per server address. Names are resolved periodically: a new address gets a task, and
 * the task of one that is gone ends. A name that is to be connected to as such has one task.
 */
export class ServerAddresses {
  readonly #options: Required<ServerAddressesOptions>;
  readonly #servers: readonly ServerEntry[];
  /** What ends each task, by its address. */
  readonly #stops = new Map<string, AbortController>();
  readonly #tasks = new TaskGroup();
  /** Addresses that were left out. */
  #left = 0;

  constructor(options: ServerAddressesOptions) {
    this.#options = { ...defaults, ...options };
    this.#servers = options.servers.map((server) => ({
      server,
      addresses: [],
      wake: new AbortController(),
    }));
  }

  /** Runs until the signal has aborted and every task has ended. */
  async run(): Promise<void> {
    const { signal } = this.#options;
    const stop = () => {
      for (const { wake } of this.#servers) wake.abort();
      for (const end of this.#stops.values()) end.abort();
    };
    signal.addEventListener("abort", stop);
    await Promise.all(this.#servers.map((entry) => this.#follow(entry)));
    if (!signal.aborted) {
      await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
    }
    await this.#tasks.ended();
    signal.removeEventListener("abort", stop);
  }

  /** Addresses that have a task. */
  get size(): number {
    return this.#stops.size;
  }

  /** Has the names that led to an address resolved again soon: it does not answer. */
  refresh(address: Authority): void {
    const key = formatAuthority(address);
    for (const { addresses, wake } of this.#servers) if (addresses.includes(key)) wake.abort();
  }

  async #follow(entry: ServerEntry): Promise<void> {
    const { signal, refreshMs, random, sleep, log, byName } = this.#options;
    const { hostname, port } = entry.server;
    const address = socketAddress(hostname, port);
    if (address) return this.#take(entry, [formatSocketAddress(address)]);
    const server = formatAuthority(entry.server);
    const name = byName(entry.server);
    if (name === "always") return this.#take(entry, [server]);
    const streak = new FailureStreak();
    while (!signal.aborted) {
      entry.wake = new AbortController();
      let pauseMs = refreshMs;
      try {
        const addresses = await this.#resolve(entry.server);
        streak.end();
        if (!sameItems(addresses, entry.addresses)) {
          log.info("server resolved", { server, addresses: addresses.join(",") });
        }
        this.#take(entry, addresses);
      } catch (error) {
        if (signal.aborted) return;
        const level = streak.add(messageOf(error)) ? "warn" : "debug";
        pauseMs = backoffDelayMs(streak.failures - 1, { ...RETRY, random });
        log[level]("cannot resolve the server", {
          server,
          error: messageOf(error),
          failures: streak.failures,
          known: entry.addresses.length,
          retryInMs: pauseMs,
          hint: name === "unresolved" ? BY_NAME : undefined,
        });
        if (name === "unresolved" && entry.addresses.length === 0) this.#take(entry, [server]);
      }
      const { wake } = entry;
      if (signal.aborted) return;
      await sleep(Math.min(pauseMs, MIN_PAUSE_MS), signal);
      if (pauseMs > MIN_PAUSE_MS) await sleep(pauseMs - MIN_PAUSE_MS, wake.signal);
    }
  }

  async #resolve({ hostname, port }: Authority): Promise<readonly string[]> {
    const { resolve, resolveTimeoutMs, signal } = this.#options;
    const late = () => new Error(`no answer within ${resolveTimeoutMs} ms`);
    const found = await within(resolveTimeoutMs, resolve(hostname, signal), late);
    if (found.length === 0) throw new Error("no address found");
    return found.map((ip) => formatSocketAddress({ ip, port })).sort();
  }

  #take(entry: ServerEntry, addresses: readonly string[]): void {
    entry.addresses = addresses;
    this.#update();
  }

  #update(): void {
    const { signal, maxAddresses, log } = this.#options;
    if (signal.aborted) return;
    const wanted = new Set(this.#servers.flatMap(({ addresses }) => addresses));
    for (const [key, end] of this.#stops) if (!wanted.has(key)) end.abort();
    let left = 0;
    for (const key of wanted) {
      // An address that was gone and is closing its last connection starts after that.
      if (this.#stops.has(key)) continue;
      if (this.#stops.size < maxAddresses) this.#start(key);
      else left++;
    }
    if (left > 0 && left !== this.#left) {
      log.warn("too many server addresses", { links: maxAddresses, without: left });
    }
    this.#left = left;
  }

  #start(key: string): void {
    const stop = new AbortController();
    this.#stops.set(key, stop);
    const run = async () => {
      await this.#options.keepConnected(parseAuthority(key), stop.signal);
      this.#stops.delete(key);
      this.#update();
    };
    this.#tasks.add(run());
  }
}

function sameItems(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((item, i) => item === b[i]);
}
