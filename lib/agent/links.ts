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

export interface LinksOptions {
  /** Names or IP addresses, and ports. */
  readonly servers: readonly Authority[];
  /** All IP addresses of a name, 4 or 16 bytes each. Rejects when the signal aborts. */
  readonly resolve: (name: string, signal: AbortSignal) => Promise<readonly Uint8Array[]>;
  /**
   * Keeps up a connection to an address. Once the signal aborts, as the address is no longer the servers' or everything
   * ends, it makes no other one, and resolves when it has none. Must not reject.
   */
  readonly link: (address: Authority, signal: AbortSignal) => Promise<void>;
  readonly log: Logger;
  /** Ends everything. */
  readonly signal: AbortSignal;
  /** Time after which a name is resolved again. @default {30000} */
  readonly refreshMs?: number;
  /** Time that a lookup may take. @default {5000} */
  readonly resolveTimeoutMs?: number;
  /** Links at a time; further addresses get none. @default {64} */
  readonly maxLinks?: number;
  /** Source of jitter, 0 to 1. @default {Math.random} */
  readonly random?: () => number;
  /** Waits; resolves early when the signal aborts. */
  readonly sleep?: (ms: number, signal: AbortSignal) => Promise<void>;
}

const defaults = {
  refreshMs: 30_000,
  resolveTimeoutMs: 5_000,
  maxLinks: 64,
  random: Math.random,
  sleep,
};

/** Pauses after failed lookups in a row. */
const RETRY = { minMs: 250, maxMs: 10_000 };

/** Time between two lookups of a name, whatever the reason for the second. */
const MIN_PAUSE_MS = 1_000;

/** A server of the options. */
interface Followed {
  readonly server: Authority;
  /** What it resolved to last, each address as the keys of the links have it. */
  addresses: readonly string[];
  /** Aborts when it is to be resolved soon. */
  wake: AbortController;
}

/**
 * One link to each address of some servers. Names are resolved again and again: addresses that appear get a link, and
 * those that vanish lose theirs.
 */
export class Links {
  readonly #options: Required<LinksOptions>;
  readonly #followed: readonly Followed[];
  /** What stops each link, by its address. */
  readonly #links = new Map<string, AbortController>();
  readonly #running = new TaskGroup();
  /** Addresses without a link, for want of room. */
  #left = 0;

  constructor(options: LinksOptions) {
    this.#options = { ...defaults, ...options };
    this.#followed = options.servers.map((server) => ({
      server,
      addresses: [],
      wake: new AbortController(),
    }));
  }

  /** Runs until the signal has aborted and every link has ended. */
  async run(): Promise<void> {
    const { signal } = this.#options;
    const stop = () => {
      for (const { wake } of this.#followed) wake.abort();
      for (const link of this.#links.values()) link.abort();
    };
    signal.addEventListener("abort", stop);
    await Promise.all(this.#followed.map((followed) => this.#follow(followed)));
    if (!signal.aborted) {
      await new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true }));
    }
    await this.#running.ended();
    signal.removeEventListener("abort", stop);
  }

  /** Addresses that have a link. */
  get size(): number {
    return this.#links.size;
  }

  /** Has the names that led to an address resolved again soon: it does not answer. */
  refresh(address: Authority): void {
    const key = formatAuthority(address);
    for (const { addresses, wake } of this.#followed) if (addresses.includes(key)) wake.abort();
  }

  async #follow(followed: Followed): Promise<void> {
    const { signal, refreshMs, random, sleep, log } = this.#options;
    const { hostname, port } = followed.server;
    const address = socketAddress(hostname, port);
    if (address) return this.#take(followed, [formatSocketAddress(address)]);
    const server = formatAuthority(followed.server);
    const streak = new FailureStreak();
    while (!signal.aborted) {
      followed.wake = new AbortController();
      let pauseMs = refreshMs;
      try {
        const addresses = await this.#resolve(followed.server);
        streak.end();
        if (!sameItems(addresses, followed.addresses)) {
          log.info("server resolved", { server, addresses: addresses.join(",") });
        }
        this.#take(followed, addresses);
      } catch (error) {
        if (signal.aborted) return;
        const level = streak.add(messageOf(error)) ? "warn" : "debug";
        pauseMs = backoffDelayMs(streak.failures - 1, { ...RETRY, random });
        log[level]("cannot resolve the server", {
          server,
          error: messageOf(error),
          failures: streak.failures,
          known: followed.addresses.length,
          retryInMs: pauseMs,
        });
      }
      const { wake } = followed;
      if (signal.aborted) return;
      await sleep(Math.min(pauseMs, MIN_PAUSE_MS), signal);
      if (pauseMs > MIN_PAUSE_MS) await sleep(pauseMs - MIN_PAUSE_MS, wake.signal);
    }
  }

  async #resolve({ hostname, port }: Authority): Promise<readonly string[]> {
    const { resolve, resolveTimeoutMs, signal } = this.#options;
    const late = () => new Error(`no answer in ${resolveTimeoutMs} ms`);
    const found = await within(resolveTimeoutMs, resolve(hostname, signal), late);
    if (found.length === 0) throw new Error("it has no address");
    return found.map((ip) => formatSocketAddress({ ip, port })).sort();
  }

  #take(followed: Followed, addresses: readonly string[]): void {
    followed.addresses = addresses;
    this.#update();
  }

  #update(): void {
    const { signal, maxLinks, log } = this.#options;
    if (signal.aborted) return;
    const wanted = new Set(this.#followed.flatMap(({ addresses }) => addresses));
    for (const [key, link] of this.#links) if (!wanted.has(key)) link.abort();
    let left = 0;
    for (const key of wanted) {
      // One that had vanished, and ends its last connection, begins anew after that.
      if (this.#links.has(key)) continue;
      if (this.#links.size < maxLinks) this.#start(key);
      else left++;
    }
    if (left > 0 && left !== this.#left) {
      log.warn("more addresses of servers than links", { links: maxLinks, without: left });
    }
    this.#left = left;
  }

  #start(key: string): void {
    const stop = new AbortController();
    this.#links.set(key, stop);
    const link = async () => {
      await this.#options.link(parseAuthority(key), stop.signal);
      this.#links.delete(key);
      this.#update();
    };
    this.#running.add(link());
  }
}

function sameItems(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((item, i) => item === b[i]);
}
