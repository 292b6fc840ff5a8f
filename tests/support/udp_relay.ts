// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../../lib/net/authority.ts";

/** What happens to packets on their way; shares are from 0 to 1. */
export interface Impairment {
  /** Share of the packets that are dropped. @default {0} */
  readonly loss?: number;
  /** Share of the packets that arrive twice. @default {0} */
  readonly duplicate?: number;
  /** Share of the packets that are held back until some later ones have passed. @default {0} */
  readonly reorder?: number;
  /** Packets that pass one that is held back, at most. @default {8} */
  readonly reorderDepth?: number;
  /** Time on the way. @default {0} */
  readonly delayMs?: number;
  /** Up to this much more time, drawn for each packet. @default {0} */
  readonly jitterMs?: number;
  /** Larger packets are dropped, as by a link with a small MTU. @default {65535} */
  readonly maxBytes?: number;
}

/** The relay's own fields count for both ways; `toServer` and `toClient` overrule them for one. */
export interface UdpRelayOptions extends Impairment {
  readonly toServer?: Impairment;
  readonly toClient?: Impairment;
  /** Starts the random numbers. @default {} one of 2^32, drawn */
  readonly seed?: number;
  /** Packets to the server of which copies are kept in `captured`, the first ones. @default {0} */
  readonly capture?: number;
}

/** Clients at most; a further one takes the place of the one that was silent for longest. */
const MAX_CLIENTS = 64;

/** A packet that is held back goes on after this time even if nothing passes it. */
const MAX_HOLD_MS = 25;

/** Packets on their way at most, each way; further ones are dropped. */
const MAX_QUEUED = 4096;

const MAX_DATAGRAM_BYTES = 65_535;

/** Numbers from 0 up to 1, the same ones for the same seed, unrelated ones for any other (Mulberry32). */
export function seededRandom(seed: number): () => number {
  let count = seed | 0;
  return () => {
    count = (count + 0x6d2b79f5) | 0;
    let bits = Math.imul(count ^ (count >>> 15), count | 1);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), bits | 61)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** One way through the relay. */
class Lane {
  /** Packets since the beginning. */
  readonly counters = {
    received: 0,
    /** Handed on, copies included. */
    forwarded: 0,
    lost: 0,
    duplicated: 0,
    reordered: 0,
    /** Dropped while the relay was cut. */
    cut: 0,
    /** Dropped because too many were on their way. */
    overflowed: 0,
    /** Dropped because they were too large. */
    oversized: 0,
  };
  isCut = false;
  readonly #random: () => number;
  #impairment!: Required<Impairment>;
  /** By the time at which they go on. */
  readonly #delayed: { at: number; forward: () => void }[] = [];
  #heldBack: { passes: number; forward: () => void }[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #holdTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(impairment: Impairment, random: () => number) {
    this.impair(impairment);
    this.#random = random;
  }

  impair(impairment: Impairment): void {
    this.#impairment = {
      loss: 0,
      duplicate: 0,
      reorder: 0,
      reorderDepth: 8,
      delayMs: 0,
      jitterMs: 0,
      maxBytes: MAX_DATAGRAM_BYTES,
      ...impairment,
    };
  }

  /** Takes a packet of a size in; `send` is called for each copy that gets through. */
  take(bytes: number, send: () => void): void {
    const { loss, duplicate, reorder, reorderDepth, maxBytes } = this.#impairment;
    this.counters.received++;
    if (bytes > maxBytes) {
      this.counters.oversized++;
      return;
    }
    if (this.isCut) {
      this.counters.cut++;
      return;
    }
    if (this.#chance(loss)) {
      this.counters.lost++;
      return;
    }
    const forward = () => {
      this.counters[this.isCut ? "cut" : "forwarded"]++;
      if (!this.isCut) send();
    };
    if (this.#chance(duplicate)) {
      this.counters.duplicated++;
      this.#delay(forward);
    }
    if (this.#chance(reorder) && this.#heldBack.length < MAX_QUEUED) {
      this.counters.reordered++;
      this.#heldBack.push({ passes: 1 + Math.floor(this.#random() * reorderDepth), forward });
      this.#holdTimer ??= setTimeout(() => this.#release(true), MAX_HOLD_MS);
      return;
    }
    this.#delay(forward);
    this.#release(false);
  }

  /** Draws for shares above zero only, so that one impairment more leaves the others' draws alone. */
  #chance(share: number): boolean {
    return share > 0 && this.#random() < share;
  }

  #release(all: boolean): void {
    if (this.#heldBack.length === 0 && !all) return;
    const held = this.#heldBack;
    this.#heldBack = held.filter((packet) => !all && --packet.passes > 0);
    if (this.#heldBack.length === 0) {
      clearTimeout(this.#holdTimer);
      this.#holdTimer = undefined;
    }
    for (const packet of held) if (all || packet.passes === 0) this.#delay(packet.forward);
  }

  #delay(forward: () => void): void {
    const { delayMs, jitterMs } = this.#impairment;
    if (delayMs === 0 && jitterMs === 0) return forward();
    if (this.#delayed.length >= MAX_QUEUED) {
      this.counters.overflowed++;
      return;
    }
    const at = performance.now() + delayMs + jitterMs * this.#random();
    let index = this.#delayed.length;
    while (index > 0 && this.#delayed[index - 1]!.at > at) index--;
    this.#delayed.splice(index, 0, { at, forward });
    if (index === 0) this.#arm();
  }

  #arm(): void {
    clearTimeout(this.#timer);
    const next = this.#delayed[0];
    this.#timer = next &&
      setTimeout(() => this.#forwardDue(), Math.max(0, next.at - performance.now()));
  }

  #forwardDue(): void {
    const now = performance.now();
    const waiting = this.#delayed.findIndex(({ at }) => at > now);
    const due = this.#delayed.splice(0, waiting < 0 ? this.#delayed.length : waiting);
    for (const { forward } of due) forward();
    this.#arm();
  }

  stop(): void {
    this.isCut = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#holdTimer);
  }
}

/** A client, and the socket through which the server sees it. */
interface Link {
  readonly client: Deno.NetAddr;
  upstream: Deno.DatagramConn;
  /** When it was last heard of, by `performance.now()`. */
  heardAt: number;
}

/**
 * A network between clients and one server, on loopback: each client's packets come to the server from a port of the
 * relay's own, as through a NAT, and may be lost, doubled, reordered and delayed on their way.
 */
export class UdpRelay implements AsyncDisposable {
  readonly seed: number;
  /** Copies of the first packets to the server. */
  readonly captured: Uint8Array<ArrayBuffer>[] = [];
  readonly #options: UdpRelayOptions;
  readonly #server: Deno.NetAddr;
  readonly #downstream: Deno.DatagramConn;
  readonly #links = new Map<number, Link>();
  readonly #toServer: Lane;
  readonly #toClient: Lane;
  readonly #pumps = new Set<Promise<void>>();
  readonly #sends = new Set<Promise<void>>();
  #closed = false;

  constructor(server: Authority, options: UdpRelayOptions = {}) {
    const { toServer, toClient, ...both } = options;
    this.#options = options;
    this.seed = options.seed ?? Math.floor(Math.random() * 2 ** 32);
    this.#server = { transport: "udp", ...server };
    // Each way has numbers of its own: how the two interleave does not depend on the seed.
    this.#toServer = new Lane({ ...both, ...toServer }, seededRandom(this.seed));
    this.#toClient = new Lane({ ...both, ...toClient }, seededRandom(~this.seed));
    this.#downstream = bind();
    this.#pump(this.#downstream, (bytes, from) => this.#fromClient(bytes, from));
  }

  /** Where clients send to. */
  get addr(): Authority {
    const { hostname, port } = this.#downstream.addr as Deno.NetAddr;
    return { hostname, port };
  }

  /** Ports that the server sees the clients at. */
  get ports(): number[] {
    return [...this.#links.values()].map(({ upstream }) => (upstream.addr as Deno.NetAddr).port);
  }

  get counters() {
    return { toServer: this.#toServer.counters, toClient: this.#toClient.counters };
  }

  /** Gives every client a new port towards the server, and forgets the old one. */
  rebind(): void {
    for (const link of this.#links.values()) {
      link.upstream.close();
      this.#connect(link);
    }
  }

  /** Replaces what happens to packets from now on, both ways. */
  impair(impairment: Impairment): void {
    this.#toServer.impair(impairment);
    this.#toClient.impair(impairment);
  }

  /** Drops everything from now on, and what is on its way. */
  cut(way: "both" | "toServer" | "toClient" = "both"): void {
    if (way !== "toClient") this.#toServer.isCut = true;
    if (way !== "toServer") this.#toClient.isCut = true;
  }

  /** Lets everything through again. */
  restore(): void {
    this.#toServer.isCut = this.#toClient.isCut = false;
  }

  /** Sends a packet of the test's own to every client, as if it came from the server. */
  injectToClients(bytes: Uint8Array): void {
    for (const { client } of this.#links.values()) this.#send(this.#downstream, bytes, client);
  }

  #connect(link: Link): void {
    link.upstream = bind();
    this.#pump(link.upstream, (bytes) => {
      this.#toClient.take(bytes.length, () => this.#send(this.#downstream, bytes, link.client));
    });
  }

  #fromClient(bytes: Uint8Array<ArrayBuffer>, client: Deno.NetAddr): void {
    let link = this.#links.get(client.port);
    if (!link) {
      if (this.#links.size === MAX_CLIENTS) this.#forgetOne();
      // #connect sets the other fields.
      link = { client } as Link;
      this.#connect(link);
      this.#links.set(client.port, link);
    }
    const known = link;
    known.heardAt = performance.now();
    if (this.captured.length < (this.#options.capture ?? 0)) this.captured.push(bytes);
    this.#toServer.take(bytes.length, () => this.#send(known.upstream, bytes, this.#server));
  }

  /** Agents that connect again and again come from another port each time. */
  #forgetOne(): void {
    const [port, { upstream }] = Array.from(this.#links).reduce((oldest, other) =>
      other[1].heardAt < oldest[1].heardAt ? other : oldest
    );
    this.#links.delete(port);
    upstream.close();
  }

  #pump(
    socket: Deno.DatagramConn,
    take: (bytes: Uint8Array<ArrayBuffer>, from: Deno.NetAddr) => void,
  ): void {
    const run = async () => {
      const buffer = new Uint8Array(MAX_DATAGRAM_BYTES);
      try {
        while (!this.#closed) {
          const [bytes, from] = await socket.receive(buffer);
          take(bytes.slice() as Uint8Array<ArrayBuffer>, from as Deno.NetAddr);
        }
      } catch {
        // Closed: by rebind(), or with the relay.
      }
    };
    const pump = run().finally(() => this.#pumps.delete(pump));
    this.#pumps.add(pump);
  }

  #send(socket: Deno.DatagramConn, bytes: Uint8Array, to: Deno.NetAddr): void {
    if (this.#closed || this.#sends.size >= MAX_QUEUED) return;
    // A socket that rebind() has closed loses its packets, as the NAT's old port does.
    const send = socket.send(bytes, to).then(() => {}, () => {}).finally(() =>
      this.#sends.delete(send)
    );
    this.#sends.add(send);
  }

  /** The seed and what was done, for the message of a failure. */
  toString(): string {
    return `relay with seed ${this.seed}: ${JSON.stringify(this.counters)}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.#toServer.stop();
    this.#toClient.stop();
    this.#downstream.close();
    for (const { upstream } of this.#links.values()) upstream.close();
    await Promise.all([...this.#pumps, ...this.#sends]);
  }
}

function bind(): Deno.DatagramConn {
  return Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
}
