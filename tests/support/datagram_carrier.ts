// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../../lib/net/authority.ts";
import type {
  DatagramEvents,
  DatagramSocket,
  OpenDatagramSocket,
  QuicEndpoint,
} from "../../lib/quic/mod.ts";

/** Bytes that wait in one direction at most. */
const MAX_WAITING_BYTES = 1 << 20;

/** Whether datagrams get through. */
interface Path {
  stalled: boolean;
  /** Those that stopped at a stall, which go on after it. */
  readonly held: (() => void)[];
}

/** One end of a carrier in memory. */
class End implements DatagramSocket {
  readonly isCarrier = true;
  peer: End | undefined;
  #waiting = 0;
  #starved = false;
  #closed = false;

  constructor(
    readonly addr: Authority,
    readonly from: Authority,
    readonly path: Path,
    readonly maxBytes: number | undefined,
    readonly events: DatagramEvents,
  ) {}

  maxDatagramBytes(): number | undefined {
    return this.maxBytes;
  }

  reserve(bytes: number): Uint8Array | undefined {
    if (!this.#closed && this.#waiting + bytes <= MAX_WAITING_BYTES) {
      return this.#buffer = new Uint8Array(bytes);
    }
    this.#starved = true;
    return undefined;
  }

  #buffer = new Uint8Array();

  commit(bytes: number): void {
    const datagram = this.#buffer.subarray(0, bytes);
    this.#waiting += bytes;
    const arrive = () => {
      this.#waiting -= bytes;
      const { peer } = this;
      if (peer && !peer.#closed) peer.events.datagram(datagram, peer.from);
      if (!this.#starved || this.#closed) return;
      this.#starved = false;
      this.events.writable();
    };
    if (this.path.stalled) this.path.held.push(arrive);
    else queueMicrotask(arrive);
  }

  flush(): void {}

  noticeErrors(): void {}

  lose(): void {
    this.#closed = true;
    this.events.lost(new Error("the carrier was reset"));
  }

  close(): Promise<void> {
    this.#closed = true;
    return Promise.resolve();
  }
}

/** Carriers between an endpoint that makes connections and one that takes them, in memory. */
export class MemoryCarriers {
  readonly #server: QuicEndpoint;
  readonly #maxBytes: number | undefined;
  #path: Path = { stalled: false, held: [] };
  #client: End | undefined;
  #ofServer: End | undefined;
  #port = 1000;

  /** @param maxBytes the largest datagram, if it is known */
  constructor(server: QuicEndpoint, maxBytes: number | undefined) {
    this.#server = server;
    this.#maxBytes = maxBytes;
  }

  /** For the endpoint that makes connections. */
  readonly open: OpenDatagramSocket = (events) => {
    const server = { hostname: "192.0.2.1", port: 443 };
    this.#client = new End({ ...server, port: 999 }, server, this.#path, this.#maxBytes, events);
    this.#attach();
    return this.#client;
  };

  #attach(): void {
    const address = { hostname: "192.0.2.9", port: this.#port++ };
    this.#server.attach((events) =>
      this.#ofServer = new End(address, address, this.#path, this.#maxBytes, events)
    );
    this.#ofServer!.peer = this.#client;
    this.#client!.peer = this.#ofServer;
  }

  /** Nothing gets through from now on. */
  stall(): void {
    this.#path.stalled = true;
  }

  /** Everything that was sent meanwhile arrives. */
  resume(): void {
    this.#path.stalled = false;
    for (const arrive of this.#path.held.splice(0)) arrive();
  }

  /** The server loses the carrier; what is under way is lost. */
  cut(): void {
    this.#path.held.length = 0;
    this.#client!.peer = undefined;
    this.#ofServer!.lose();
  }

  /** The client has another carrier. */
  replace(): void {
    this.#attach();
    this.#client!.events.replaced();
  }

  /** The client gives up. */
  lose(): void {
    this.#client!.lose();
  }
}
