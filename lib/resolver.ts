// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Names to IP addresses, as the system resolves them. */
import { lookup } from "node:dns/promises";
import { ipBytes } from "./ip_address.ts";
import { untilAborted } from "./within.ts";

/** The addresses of a name in the order of preference, as texts: the system's resolver, or a test's own. */
export type Lookup = (name: string) => Promise<readonly string[]>;

/**
 * Lookups under way at a time. Each holds one of the 32 threads that Deno has for what blocks, among
 * it reading files, until the system gives up on name servers that do not answer; nothing ends it earlier.
 */
const MAX_LOOKUPS = 16;

interface Pending {
  readonly name: string;
  readonly result: PromiseWithResolvers<readonly Uint8Array[]>;
  /** How many wait for it. */
  waiting: number;
}

/**
 * Resolves names, the same name once at a time and few names at a time, so that those which hang leave
 * room for others. As many names wait for a lookup as have somebody that waits for them.
 */
export class Resolver {
  readonly #lookup: Lookup;
  readonly #maxLookups: number;
  /** All that are under way or have to wait, by name. */
  readonly #pending = new Map<string, Pending>();
  /** Those that have to wait, in their order. */
  readonly #queue = new Set<Pending>();
  #running = 0;

  constructor(options: { readonly lookup?: Lookup; readonly maxLookups?: number } = {}) {
    this.#lookup = options.lookup ?? systemLookup;
    this.#maxLookups = options.maxLookups ?? MAX_LOOKUPS;
  }

  /**
   * Resolves a name.
   *
   * @returns each address once, 4 or 16 bytes, in the order of preference; empty when the name has none
   * @throws what the lookup throws
   * @throws the signal's reason when it aborts first
   */
  async resolve(name: string, signal: AbortSignal): Promise<readonly Uint8Array[]> {
    signal.throwIfAborted();
    const key = name.toLowerCase();
    const pending = this.#pending.get(key) ?? this.#add(key);
    pending.waiting++;
    try {
      return await untilAborted(signal, pending.result.promise);
    } finally {
      pending.waiting--;
      if (pending.waiting === 0 && this.#queue.delete(pending)) this.#pending.delete(key);
    }
  }

  #add(name: string): Pending {
    const result = Promise.withResolvers<readonly Uint8Array[]>();
    // It may fail when nobody waits any more.
    result.promise.catch(() => {});
    const pending = { name, result, waiting: 0 };
    this.#pending.set(name, pending);
    this.#queue.add(pending);
    this.#startNext();
    return pending;
  }

  #startNext(): void {
    const [next] = this.#queue;
    if (!next || this.#running >= this.#maxLookups) return;
    this.#queue.delete(next);
    this.#running++;
    void this.#run(next);
  }

  async #run({ name, result }: Pending): Promise<void> {
    try {
      result.resolve(addressesOf(await this.#lookup(name)));
    } catch (error) {
      result.reject(error);
    }
    this.#pending.delete(name);
    this.#running--;
    this.#startNext();
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
