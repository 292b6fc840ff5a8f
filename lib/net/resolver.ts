// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Resolves names to IP addresses as the system does. */
import { abortable } from "@std/async/abortable";
import { lookup } from "node:dns/promises";
import { ipBytes } from "./ip_address.ts";

/** Looks up the addresses of a name, as texts in the order of preference. */
export type Lookup = (name: string) => Promise<readonly string[]>;

/**
 * Lookups in progress at a time. Each occupies one of Deno's 32 threads for blocking calls, which
 * read files as well, until the system gives up on name servers that do not answer. It cannot be
 * aborted.
 */
const MAX_LOOKUPS = 16;

/**
 * Largest number of names remembered as resolvable; the least recently used are forgotten first.
 */
const MAX_KNOWN = 1000;

interface Pending {
  readonly name: string;
  readonly kind: "known" | "unknown";
  readonly result: PromiseWithResolvers<readonly Uint8Array[]>;
  /** Number of callers that wait for it. */
  waiting: number;
}

/**
 * Resolves names: each name once at a time, and few names at a time. A quarter of the lookups is
 * reserved for names that have resolved before, so that names whose lookup hangs do not block them.
 * A name waits for its lookup as long as a caller waits for it.
 */
export class Resolver {
  readonly #lookup: Lookup;
  readonly #maxLookups: number;
  readonly #maxUnknown: number;
  readonly #known = new Set<string>();
  /** Lookups in progress or queued, by name. */
  readonly #pending = new Map<string, Pending>();
  /** Queued lookups, oldest first. */
  readonly #queued = { known: new Set<Pending>(), unknown: new Set<Pending>() };
  readonly #running = { known: 0, unknown: 0 };

  constructor(options: { readonly lookup?: Lookup; readonly maxLookups?: number } = {}) {
    this.#lookup = options.lookup ?? systemLookup;
    this.#maxLookups = options.maxLookups ?? MAX_LOOKUPS;
    this.#maxUnknown = this.#maxLookups - Math.floor(this.#maxLookups / 4);
  }

  /**
   * Resolves a name.
   *
   * @returns each address once, 4 or 16 bytes, in the order of preference; empty when the name has
   * none
   * @throws what the lookup throws
   * @throws the signal's reason when it aborts first
   */
  async resolve(name: string, signal: AbortSignal): Promise<readonly Uint8Array[]> {
    signal.throwIfAborted();
    const key = name.toLowerCase();
    const pending = this.#pending.get(key) ?? this.#add(key);
    pending.waiting++;
    try {
      return await abortable(pending.result.promise, signal);
    } finally {
      pending.waiting--;
      const isUnwanted = pending.waiting === 0;
      if (isUnwanted && this.#queued[pending.kind].delete(pending)) this.#pending.delete(key);
    }
  }

  #add(name: string): Pending {
    const result = Promise.withResolvers<readonly Uint8Array[]>();
    // It may fail when nobody waits any more.
    result.promise.catch(() => {});
    const kind = this.#known.has(name) ? "known" : "unknown";
    const pending: Pending = { name, kind, result, waiting: 0 };
    this.#pending.set(name, pending);
    this.#queued[kind].add(pending);
    this.#startNext();
    return pending;
  }

  #startNext(): void {
    if (this.#running.known + this.#running.unknown >= this.#maxLookups) return;
    const [nextKnown] = this.#queued.known;
    const [nextUnknown] = this.#running.unknown < this.#maxUnknown ? this.#queued.unknown : [];
    const next = nextUnknown ?? nextKnown;
    if (!next) return;
    this.#queued[next.kind].delete(next);
    void this.#run(next);
  }

  async #run({ name, kind, result }: Pending): Promise<void> {
    this.#running[kind]++;
    this.#known.delete(name);
    try {
      const addresses = addressesOf(await this.#lookup(name));
      if (addresses.length > 0) this.#remember(name);
      result.resolve(addresses);
    } catch (error) {
      result.reject(error);
    }
    this.#pending.delete(name);
    this.#running[kind]--;
    this.#startNext();
  }

  #remember(name: string): void {
    this.#known.add(name);
    const [oldest] = this.#known;
    if (this.#known.size > MAX_KNOWN) this.#known.delete(oldest!);
  }
}

async function systemLookup(name: string): Promise<string[]> {
  const found = await lookup(name, { all: true, verbatim: true });
  return found.map(({ address }) => address);
}

/** What is no address, or one that is told already, is left out. */
function addressesOf(texts: readonly string[]): Uint8Array[] {
  const addresses = texts.map(ipBytes).filter((ip) => ip !== undefined);
  return [...new Map(addresses.map((ip) => [ip.join("."), ip])).values()];
}
