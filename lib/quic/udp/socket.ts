// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../../net/authority.ts";
import type { DatagramEvents, DatagramSocket } from "../datagram_socket.ts";
import { UdpBatch } from "./batch.ts";
import { routePayloadBytes } from "./route.ts";

/**
 * Receive calls under way at a time, where one call takes one datagram: what one turn of the event
 * loop can take.
 */
const RECEIVES = 32;

/** Sends under way at a time; only a full socket buffer makes any of them last. */
const MAX_SENDS = 256;

/** Datagrams that lie one behind the other until they are sent together. */
const OUTGOING_BYTES = 1 << 16;

/** How a socket of both families writes addresses of IPv4 (RFC 4291 §2.5.5.2). */
const MAPPED = "::ffff:";

/** Pause after a receive call that failed, so that a socket that always fails does not spin. */
const RECEIVE_RETRY_MS = 20;

/** Interval of looks whether datagrams still come in bursts. */
const LOOK_MS = 500;

/** What a UDP socket reports. */
export type UdpSocketEvents =
  & Pick<DatagramEvents, "datagram" | "sendError" | "writable">
  & Partial<Pick<DatagramEvents, "refused">>;

export interface UdpSocketOptions {
  readonly hostname: string;
  readonly port: number;
  /** Largest datagram that is received. */
  readonly maxDatagramBytes: number;
  /** Whether many datagrams go with one call where the system can do that. @default {true} */
  readonly batch?: boolean;
}

/**
 * A UDP socket that hands out what it receives in batches and never throws for a datagram's sake.
 */
export class UdpSocket implements DatagramSocket {
  readonly isCarrier = false;
  readonly #socket: Deno.DatagramConn;
  readonly #batch: UdpBatch | undefined;
  /** Whether addresses of IPv4 are IPv4-mapped to the system. */
  readonly #isV6: boolean;
  readonly #events: UdpSocketEvents;
  readonly #receivers: Promise<void>[] = [];
  readonly #maxDatagramBytes: number;
  readonly #free: Uint8Array[] = [];
  #sending = 0;
  #starved = false;
  #closed = false;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #look: ReturnType<typeof setInterval> | undefined;
  /** Is called when nothing is being sent any more. */
  #idle: (() => void) | undefined;
  #address: Deno.NetAddr = { transport: "udp", hostname: "", port: 0 };

  /**
   * Datagrams of one size to one address, from `#start` to `#end`, the last of which may be
   * shorter.
   */
  #outgoing = new Uint8Array(OUTGOING_BYTES);
  #start = 0;
  #end = 0;
  #segments = 0;
  #segmentBytes = 0;
  #to: Authority | undefined;

  /** @throws when the address cannot be bound */
  constructor(options: UdpSocketOptions, events: UdpSocketEvents) {
    const { hostname, port, maxDatagramBytes, batch = true } = options;
    const listen = () => Deno.listenDatagram({ transport: "udp", hostname, port });
    const bound = batch
      ? UdpBatch.bind(listen, maxDatagramBytes, {
        refused: (datagram) => this.#closed || events.refused?.(datagram),
      })
      : { socket: listen(), batch: undefined };
    this.#socket = bound.socket;
    this.#isV6 = this.addr.hostname.includes(":");
    this.#batch = bound.batch;
    this.#events = events;
    this.#maxDatagramBytes = maxDatagramBytes;
    const receives = this.#batch ? 1 : RECEIVES;
    for (let i = 0; i < receives; i++) this.#receivers.push(this.#receive());
  }

  get addr(): Deno.NetAddr {
    return this.#socket.addr as Deno.NetAddr;
  }

  /** Whether many datagrams go with one call. */
  get isBatching(): boolean {
    return this.#batch !== undefined;
  }

  /** Whether the system hands over what it receives in bursts, as it does while there is much. */
  get isBursting(): boolean {
    return this.#batch?.isBursting ?? false;
  }

  maxDatagramBytes(to: Authority): number | undefined {
    return this.isBatching ? routePayloadBytes(to) : undefined;
  }

  reserve(bytes: number, mustLeave = false): Uint8Array | undefined {
    // With a call for many, others wait for none that has to wait: they would overtake it.
    if (!mustLeave && this.#sending >= (this.#batch ? 1 : MAX_SENDS)) {
      this.#starved = true;
      return undefined;
    }
    if (this.#end + bytes > OUTGOING_BYTES) this.flush();
    return this.#outgoing.subarray(this.#end, this.#end + bytes);
  }

  commit(bytes: number, to: Authority): void {
    const isOther = this.#segments > 0 &&
      (bytes > this.#segmentBytes || to.port !== this.#to!.port ||
        to.hostname !== this.#to!.hostname);
    if (isOther) this.#sendOutgoing();
    if (this.#segments === 0) {
      this.#segmentBytes = bytes;
      this.#to = to;
    }
    this.#segments++;
    this.#end += bytes;
    const max = this.#batch?.maxSegments(this.#segmentBytes) ?? 1;
    if (bytes < this.#segmentBytes || this.#segments >= max) this.#sendOutgoing();
  }

  flush(): void {
    this.#sendOutgoing();
    this.#start = this.#end = 0;
  }

  #sendOutgoing(): void {
    if (this.#segments === 0) return;
    const bytes = this.#outgoing.subarray(this.#start, this.#end);
    const [segmentBytes, to] = [this.#segmentBytes, this.#to!];
    this.#start = this.#end;
    this.#segments = 0;
    // The descriptor may be another socket's by now.
    if (this.#closed) return;
    if (this.#batch) return this.#sendBatch(this.#batch, bytes, segmentBytes, to);
    for (let offset = 0; offset < bytes.length; offset += segmentBytes) {
      this.#send(bytes.subarray(offset, offset + segmentBytes), to);
    }
  }

  #sendBatch(batch: UdpBatch, bytes: Uint8Array, segmentBytes: number, to: Authority): void {
    const result = batch.send(bytes, segmentBytes, to);
    if (result === "full") void this.#sendLater(batch, bytes.slice(), segmentBytes, to);
    else if (result !== "sent") this.#events.sendError(new Error(`sendmsg: ${result}`));
  }

  /** Sends as soon as there is room. */
  async #sendLater(
    batch: UdpBatch,
    bytes: Uint8Array,
    segmentBytes: number,
    to: Authority,
  ): Promise<void> {
    this.#sending++;
    while (!this.#closed && !await batch.room());
    if (!this.#closed) {
      const result = batch.send(bytes, segmentBytes, to);
      if (result !== "sent") this.#events.sendError(new Error(`sendmsg: ${result}`));
    }
    this.#sent();
  }

  /** Sends one datagram as soon as there is room. */
  #send(bytes: Uint8Array, { hostname, port }: Authority): void {
    if (this.#address.port !== port || unmapped(this.#address.hostname) !== hostname) {
      const isMapped = this.#isV6 && !hostname.includes(":");
      this.#address = {
        transport: "udp",
        hostname: isMapped ? `${MAPPED}${hostname}` : hostname,
        port,
      };
    }
    const free = this.#free.pop();
    const buffer = free && free.length >= bytes.length ? free : new Uint8Array(bytes.length);
    buffer.set(bytes);
    this.#sending++;
    this.#socket.send(buffer.subarray(0, bytes.length), this.#address).then(
      () => this.#sent(buffer),
      (error) => {
        this.#sent(buffer);
        if (!this.#closed) this.#events.sendError(error);
      },
    );
  }

  #sent(buffer?: Uint8Array): void {
    this.#sending--;
    if (this.#sending === 0) this.#idle?.();
    if (buffer && this.#free.length < MAX_SENDS) this.#free.push(buffer);
    if (this.#starved && this.#sending <= (this.#batch ? 0 : MAX_SENDS / 2)) {
      this.#starved = false;
      if (!this.#closed) this.#events.writable();
    }
  }

  noticeErrors(): void {
    if (!this.#closed) this.#batch?.readErrors();
  }

  async #receive(): Promise<void> {
    const buffer = new Uint8Array(this.#maxDatagramBytes);
    const from = { hostname: "", port: 0 };
    const datagram = (bytes: Uint8Array, from: Authority) => {
      if (!this.#closed) this.#events.datagram(bytes, from);
    };
    const receive = () => this.#socket.receive(buffer);
    while (!this.#closed) {
      try {
        const got = await (this.#batch ? this.#batch.received(receive) : receive());
        if (got) {
          const [bytes, addr] = got;
          from.hostname = unmapped((addr as Deno.NetAddr).hostname);
          from.port = (addr as Deno.NetAddr).port;
          datagram(bytes, from);
        }
        if (this.#batch && !this.#closed) this.#receiveBatch(this.#batch, datagram);
      } catch {
        if (this.#closed) return;
        // Here as well, systems report ICMP; it says nothing about the socket.
        if (this.#batch?.readErrors()) continue;
        await new Promise<void>((resolve) => {
          this.#retry = setTimeout(resolve, RECEIVE_RETRY_MS);
        });
      }
    }
  }

  #receiveBatch(
    batch: UdpBatch,
    datagram: (bytes: Uint8Array, from: Authority) => void,
  ): void {
    batch.receive(datagram);
    if (!batch.isBursting) return;
    this.#look ??= setInterval(() => {
      batch.look(datagram);
      if (batch.isBursting) return;
      clearInterval(this.#look);
      this.#look = undefined;
    }, LOOK_MS);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#look);
    if (this.#batch && this.#sending > 0) {
      await new Promise<void>((resolve) => this.#idle = resolve);
    }
    this.#batch?.close();
    this.#socket.close();
    if (this.#retry === undefined) await Promise.all(this.#receivers);
    else clearTimeout(this.#retry);
  }
}

function unmapped(hostname: string): string {
  return hostname.startsWith(MAPPED) && hostname.includes(".")
    ? hostname.slice(MAPPED.length)
    : hostname;
}
