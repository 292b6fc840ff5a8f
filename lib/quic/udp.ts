// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { MAX_RECEIVED_DATAGRAM_BYTES } from "./options.ts";
import type { HostPort } from "./native.ts";

/** Receive calls under way at a time: the datagrams that one turn of the event loop can take. */
const RECEIVES = 32;

/** Sends under way at a time; only a full socket buffer makes any of them last. */
const MAX_SENDS = 256;

/** Pause after a receive call that failed, so that a socket that always fails does not spin. */
const RECEIVE_RETRY_MS = 20;

export interface UdpSocketEvents {
  /** A datagram, valid during the call only. */
  datagram(bytes: Uint8Array, from: HostPort): void;
  /** A send failed; the datagram is lost. */
  sendError(error: unknown): void;
  /** There is room for sends again after {@linkcode UdpSocket.send} had none. */
  writable(): void;
}

/** A UDP socket that hands out what it receives in batches and never throws for a datagram's sake. */
export class UdpSocket {
  readonly #socket: Deno.DatagramConn;
  readonly #events: UdpSocketEvents;
  readonly #free: Uint8Array[] = [];
  readonly #receivers: Promise<void>[] = [];
  readonly #packetBytes: number;
  #sending = 0;
  #starved = false;
  #closed = false;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #to: Deno.NetAddr = { transport: "udp", hostname: "", port: 0 };

  /** @throws when the address cannot be bound */
  constructor(
    options: { hostname: string; port: number; packetBytes: number },
    events: UdpSocketEvents,
  ) {
    this.#socket = Deno.listenDatagram({
      transport: "udp",
      hostname: options.hostname,
      port: options.port,
    });
    this.#events = events;
    this.#packetBytes = options.packetBytes;
    for (let i = 0; i < RECEIVES; i++) this.#receivers.push(this.#receive());
  }

  get addr(): Deno.NetAddr {
    return this.#socket.addr as Deno.NetAddr;
  }

  /** Whether another datagram can be sent now; if not, `writable` is called once there is room. */
  get hasRoom(): boolean {
    if (this.#sending < MAX_SENDS) return true;
    this.#starved = true;
    return false;
  }

  /** A buffer to write the next datagram into; goes back by {@linkcode send} or {@linkcode release}. */
  take(): Uint8Array {
    return this.#free.pop() ?? new Uint8Array(this.#packetBytes);
  }

  release(buffer: Uint8Array): void {
    if (this.#free.length < MAX_SENDS) this.#free.push(buffer);
  }

  /** Sends the first `length` bytes of a buffer from {@linkcode take}. */
  send(buffer: Uint8Array, length: number, to: HostPort): void {
    if (this.#to.port !== to.port || this.#to.hostname !== to.host) {
      this.#to = { transport: "udp", hostname: to.host, port: to.port };
    }
    this.#sending++;
    this.#socket.send(length === buffer.length ? buffer : buffer.subarray(0, length), this.#to)
      .then(
        () => this.#sent(buffer),
        (error) => {
          this.#sent(buffer);
          if (!this.#closed) this.#events.sendError(error);
        },
      );
  }

  #sent(buffer: Uint8Array): void {
    this.#sending--;
    this.release(buffer);
    if (this.#starved && this.#sending <= MAX_SENDS / 2) {
      this.#starved = false;
      if (!this.#closed) this.#events.writable();
    }
  }

  async #receive(): Promise<void> {
    const buffer = new Uint8Array(MAX_RECEIVED_DATAGRAM_BYTES);
    const from = { host: "", port: 0 };
    while (!this.#closed) {
      try {
        const [bytes, addr] = await this.#socket.receive(buffer);
        from.host = (addr as Deno.NetAddr).hostname;
        from.port = (addr as Deno.NetAddr).port;
        if (!this.#closed) this.#events.datagram(bytes, from);
      } catch {
        if (this.#closed) return;
        // Windows reports an ICMP "port unreachable" here; it says nothing about the socket.
        await new Promise<void>((resolve) => {
          this.#retry = setTimeout(resolve, RECEIVE_RETRY_MS);
        });
      }
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket.close();
    if (this.#retry === undefined) await Promise.all(this.#receivers);
    else clearTimeout(this.#retry);
  }
}
