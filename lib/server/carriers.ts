// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { type Carrier, CarrierSocket } from "../connect_udp/carrier_socket.ts";
import { messageOf } from "../errors.ts";
import type { QuicEndpoint } from "../quic/mod.ts";
import type { Duplex } from "../tunnel/duplex.ts";

export interface CarriersOptions {
  /** Whose datagrams are carried. */
  readonly endpoint: Pick<QuicEndpoint, "attach" | "carriersInUse">;
  /** How long a carrier is kept that no connection goes through any more. @default {10000} */
  readonly idleTimeoutMs?: number;
}

/** A carrier that an agent has connected through. */
export interface UsedCarrier {
  /** Resolves when it has ended, with the reason unless the endpoint has closed it. */
  readonly ended: Promise<string | undefined>;
}

/** How often it is looked which carriers are in use. */
const LOOK_MS = 250;

interface Entry {
  readonly socket: CarrierSocket;
  /** The connection below it. */
  readonly raw: Duplex;
  /** Resolves when an agent has connected through it. */
  readonly known: PromiseWithResolvers<void>;
  /** When an agent's connection last went through it, by `performance.now()`. */
  usedAt: number | undefined;
  /** Why this end has closed it. */
  reason?: string;
}

/** The carriers to a server's QUIC endpoint, of which those are ended that nothing goes through. */
export class Carriers {
  readonly #options: CarriersOptions;
  readonly #open = new Set<Entry>();
  #look: ReturnType<typeof setInterval> | undefined;

  constructor(options: CarriersOptions) {
    this.#options = options;
  }

  /** How many there are now, with those that no agent has connected through yet. */
  get size(): number {
    return this.#open.size;
  }

  /**
   * Carries datagrams from now on, and resolves when an agent has connected through the carrier, or
   * the endpoint has closed it.
   *
   * @param raw the connection below TLS, which is aborted to end it
   * @param received is told how many bytes have come, until an agent has connected; throws to end it
   * @throws why it has ended before
   */
  async attach(
    raw: Duplex,
    carrier: Carrier,
    received: (bytes: number) => void,
  ): Promise<UsedCarrier> {
    let socket!: CarrierSocket;
    const onReceived = (bytes: number) => {
      if (entry.usedAt !== undefined) return;
      try {
        received(bytes);
      } catch (error) {
        // An agent may have connected since the last look.
        this.#lookAtAll();
        if (entry.usedAt === undefined) throw error;
      }
    };
    this.#options.endpoint.attach((events) =>
      socket = new CarrierSocket(carrier, events, carrier.remoteAddr, onReceived)
    );
    const known = Promise.withResolvers<void>();
    const entry: Entry = { socket, raw, known, usedAt: undefined };
    this.#open.add(entry);
    this.#look ??= setInterval(() => this.#lookAtAll(), LOOK_MS);
    const closed = socket.closed.then((error) => {
      this.#open.delete(entry);
      if (this.#open.size > 0) return error;
      clearInterval(this.#look);
      this.#look = undefined;
      return error;
    });
    await Promise.race([
      known.promise,
      closed.then((error) => {
        // Without an error, the endpoint is closing: what it says last has still to leave.
        if (error) throw error;
      }),
    ]);
    const reasonOf = (error: unknown) => error === undefined ? undefined : messageOf(error);
    return { ended: closed.then((error) => entry.reason ?? reasonOf(error)) };
  }

  #lookAtAll(): void {
    const { endpoint, idleTimeoutMs = 10_000 } = this.#options;
    const inUse = endpoint.carriersInUse;
    const now = performance.now();
    for (const entry of this.#open) {
      if (inUse.has(entry.socket)) {
        entry.usedAt = now;
        entry.known.resolve();
      } else if (entry.usedAt !== undefined && now - entry.usedAt >= idleTimeoutMs) {
        entry.reason ??= `no connection through it for ${idleTimeoutMs} ms`;
        entry.raw.abort();
      }
    }
  }
}
