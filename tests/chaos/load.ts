// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { delay } from "@std/async/delay";
import { messageOf } from "../../lib/errors.ts";
import { ClientTunnel, type Route } from "./client_tunnel.ts";
import type { Suspect } from "./disruptions.ts";
import type { Draws } from "./draws.ts";
import { type KindName, kinds, weightedKinds } from "./kinds.ts";
import type { Ledger } from "./ledger.ts";
import { WrongBytesError } from "./wire.ts";

/** How a tunnel went. */
export interface Outcome extends Suspect {
  readonly kind: KindName;
  readonly id: number;
  /** What the client saw of its failure; undefined when everything was right. */
  readonly error: string | undefined;
  /** Whether its target has got a request twice. */
  readonly repeated: boolean;
  /** Time to the target's first byte, for those that were connected. */
  readonly firstByteMs: number | undefined;
}

/** How much of what a load is. */
export interface LoadPlan {
  /** Tunnels at a time. */
  readonly concurrency: number;
  /** Tunnels altogether. @default {Infinity} until it is ended */
  readonly count?: number;
  /** What they do. @default {} every kind that there is */
  readonly kinds?: readonly KindName[];
  /** How much tunnels carry, how long they pause, and others after them; up to 1. @default {1} */
  readonly scale?: number;
}

export interface LoadOptions extends LoadPlan {
  readonly site: string;
  /** Ways to the targets, of which each tunnel takes one. */
  readonly routes: readonly Route[];
  readonly draws: Draws;
  readonly ledger: Ledger;
  ended(outcome: Outcome): void;
}

const LOOK_AFTER_MS = 500;

/** Clients of one site: a number of them at a time, each a tunnel of some kind after the other. */
export class Load {
  readonly #options: LoadOptions;
  readonly #live = new Set<ClientTunnel>();
  readonly #ending = new AbortController();
  readonly #nextKind: () => KindName;
  readonly #scale: number;
  #left: number;
  /** Resolves when it has ended. */
  readonly ended: Promise<unknown>;

  constructor(options: LoadOptions) {
    this.#options = options;
    const { routes, draws, concurrency, count = Infinity, kinds, scale = 1 } = options;
    const hasConnect = routes.some(({ target }) => target !== undefined);
    this.#nextKind = draws.bag(weightedKinds(hasConnect, kinds && [...kinds]));
    this.#scale = scale;
    this.#left = count;
    this.ended = Promise.all(Array.from({ length: concurrency }, () => this.#work()));
  }

  /** Begins no further tunnels, and waits for those under way. */
  async end(): Promise<void> {
    this.#ending.abort();
    await this.ended;
  }

  async #work(): Promise<void> {
    const { draws } = this.#options;
    while (!this.#ending.signal.aborted && this.#left-- > 0) {
      const { error } = await this.#tunnel();
      const pauseMs = error === undefined ? draws.number(0, 60 * this.#scale) : 800;
      await delay(pauseMs);
    }
  }

  async #tunnel(): Promise<Outcome> {
    const { site, routes, draws, ledger, ended } = this.#options;
    const kind = this.#nextKind();
    const tunnel = new ClientTunnel(draws.one(routes), ledger);
    const { id } = tunnel;
    this.#live.add(tunnel);
    let error: string | undefined;
    const watch = setInterval(() => {
      if (!tunnel.isStuck) return;
      ledger.violated(`${site}: tunnel ${id}, ${kind}, is stuck`);
      tunnel.abort();
    }, LOOK_AFTER_MS);
    try {
      await kinds[kind].run(tunnel, {
        draws,
        scale: this.#scale,
        ending: this.#ending.signal,
      });
    } catch (thrown) {
      error = messageOf(thrown);
      if (thrown instanceof WrongBytesError || thrown instanceof TypeError) {
        ledger.violated(`${site}: tunnel ${id}, ${kind}: ${error}`);
      }
    } finally {
      clearInterval(watch);
      tunnel.abort();
      this.#live.delete(tunnel);
    }
    const { client, startedAt, firstByteMs } = tunnel;
    const repeated = ledger.end(id);
    const endedAt = performance.now();
    const times = { startedAt, endedAt, firstByteMs };
    const outcome = { site, kind, id, client, error, repeated, ...times };
    ended(outcome);
    return outcome;
  }
}
