// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The messages of `sendmsg` and `recvmmsg`, whose parts keep their places in memory.
 *
 * The layouts are those of the C library on 64-bit Linux, the same on x86-64 and arm64: `struct
 * msghdr`, `mmsghdr` and `iovec` (socket(7), recvmmsg(2)), `cmsghdr` (cmsg(3)), `sockaddr_in` and
 * `sockaddr_in6` (ip(7), ipv6(7)).
 */
import type { Authority } from "../../net/authority.ts";
import { formatIp, ipBytes } from "../../net/ip_address.ts";
import {
  addressOf,
  AF_INET,
  AF_INET6,
  libc,
  MSG_DONTWAIT,
  SOCKADDR_BYTES,
  SOL_UDP,
  writeSocketAddress,
} from "../../net/libc.ts";
import { GRO_CMSG_BYTES, segmentBytes, split } from "./gro.ts";

const UDP_SEGMENT = 103;
const MSG_TRUNC = 0x20;

export const MSGHDR_BYTES = 56;
const MMSGHDR_BYTES = 64;
export const IOVEC_BYTES = 16;
/** `CMSG_SPACE(2)`; `CMSG_LEN(2)` is 18. */
const SEGMENT_CMSG_BYTES = 24;

/** Addresses that are kept as texts. */
const MAX_KNOWN_ADDRESSES = 4096;

/** The message of `sendmsg`, whose parts keep their places in memory. */
export class Outgoing {
  readonly #header = new DataView(new ArrayBuffer(MSGHDR_BYTES));
  readonly #message = new Uint8Array(this.#header.buffer);
  readonly #vector = new DataView(new ArrayBuffer(IOVEC_BYTES));
  readonly #control = new DataView(new ArrayBuffer(SEGMENT_CMSG_BYTES));
  readonly #name = new DataView(new ArrayBuffer(SOCKADDR_BYTES));
  /** The buffer that was sent from last, and where it is. */
  #buffer: ArrayBufferLike | undefined;
  #bufferAt = 0n;
  /** What the message has for an address now. */
  #hostname = "";
  #port = 0;

  constructor() {
    this.#header.setBigUint64(0, addressOf(this.#name.buffer), true);
    this.#header.setBigUint64(16, addressOf(this.#vector.buffer), true);
    this.#header.setBigUint64(24, 1n, true);
    this.#header.setBigUint64(32, addressOf(this.#control.buffer), true);
    this.#control.setBigUint64(0, 18n, true);
    this.#control.setInt32(8, SOL_UDP, true);
    this.#control.setInt32(12, UDP_SEGMENT, true);
  }

  /** Takes an address. Returns whether it is one that such a socket can send to. */
  address({ hostname, port }: Authority, asV6: boolean): boolean {
    if (port === this.#port && hostname === this.#hostname) return true;
    const ip = ipBytes(hostname);
    if (!ip || (ip.length === 16 && !asV6)) return false;
    this.#hostname = hostname;
    this.#port = port;
    this.#header.setUint32(8, writeSocketAddress(this.#name, ip, port, asV6), true);
    return true;
  }

  send(fd: number, bytes: Uint8Array, segmentBytes: number): boolean {
    if (bytes.buffer !== this.#buffer) {
      this.#buffer = bytes.buffer;
      this.#bufferAt = addressOf(bytes.buffer);
    }
    this.#vector.setBigUint64(0, this.#bufferAt + BigInt(bytes.byteOffset), true);
    this.#vector.setBigUint64(8, BigInt(bytes.length), true);
    const isOne = bytes.length <= segmentBytes;
    this.#header.setBigUint64(40, isOne ? 0n : BigInt(SEGMENT_CMSG_BYTES), true);
    if (!isOne) this.#control.setUint16(16, segmentBytes, true);
    return Number(libc!.sendmsg(fd, this.#message, MSG_DONTWAIT)) >= 0;
  }
}

/** The messages of `recvmmsg`, likewise. */
export class Incoming {
  readonly messages: Uint8Array<ArrayBuffer>;
  /** Messages of one call. */
  readonly size: number;
  readonly #view: DataView;
  readonly #vectors: DataView;
  readonly #names: DataView;
  readonly #control: DataView;
  readonly #bytes: Uint8Array;
  readonly #slot: number;
  readonly #maxDatagramBytes: number;
  readonly #known = new Map<number | string, Authority>();

  /** @param slot bytes of a message at most */
  constructor(size: number, slot: number, maxDatagramBytes: number) {
    this.size = size;
    this.#slot = slot;
    this.#maxDatagramBytes = maxDatagramBytes;
    this.messages = new Uint8Array(size * MMSGHDR_BYTES);
    this.#view = new DataView(this.messages.buffer);
    this.#bytes = new Uint8Array(size * slot);
    this.#names = new DataView(new ArrayBuffer(size * SOCKADDR_BYTES));
    this.#vectors = new DataView(new ArrayBuffer(size * IOVEC_BYTES));
    this.#control = new DataView(new ArrayBuffer(size * GRO_CMSG_BYTES));
    const [bytesAt, namesAt, vectorsAt, controlAt] = [
      this.#bytes,
      this.#names,
      this.#vectors,
      this.#control,
    ].map((part) => addressOf(part.buffer)) as [bigint, bigint, bigint, bigint];
    for (let i = 0; i < size; i++) {
      const [header, vector] = [i * MMSGHDR_BYTES, i * IOVEC_BYTES];
      this.#vectors.setBigUint64(vector, bytesAt + BigInt(i * slot), true);
      this.#vectors.setBigUint64(vector + 8, BigInt(slot), true);
      this.#view.setBigUint64(header, namesAt + BigInt(i * SOCKADDR_BYTES), true);
      this.#view.setBigUint64(header + 16, vectorsAt + BigInt(vector), true);
      this.#view.setBigUint64(header + 24, 1n, true);
      this.#view.setBigUint64(header + 32, controlAt + BigInt(i * GRO_CMSG_BYTES), true);
      this.#reset(header);
    }
  }

  /** The kernel has written how long the address was, and what it tells of the message. */
  #reset(header: number): void {
    this.#view.setUint32(header + 8, SOCKADDR_BYTES, true);
    this.#view.setUint32(header + 40, GRO_CMSG_BYTES, true);
  }

  /** @param count of messages. Returns how many datagrams they were. */
  handOut(count: number, datagram: (bytes: Uint8Array, from: Authority) => void): number {
    let datagrams = 0;
    for (let i = 0; i < count; i++) {
      const header = i * MMSGHDR_BYTES;
      const length = this.#view.getUint32(header + 56, true);
      const isCut = (this.#view.getInt32(header + 48, true) & MSG_TRUNC) !== 0;
      const controlBytes = this.#view.getUint32(header + 40, true);
      this.#reset(header);
      const from = this.#addressAt(i * SOCKADDR_BYTES);
      const segment = segmentBytes(this.#control, i * GRO_CMSG_BYTES, controlBytes) ?? length;
      if (isCut || !from || segment > this.#maxDatagramBytes) continue;
      const start = i * this.#slot;
      const message = this.#bytes.subarray(start, start + length);
      if (segment >= length) {
        datagrams++;
        datagram(message, from);
      } else {
        datagrams += Math.ceil(length / segment);
        split(message, segment, (bytes) => datagram(bytes, from));
      }
    }
    return datagrams;
  }

  #addressAt(offset: number): Authority | undefined {
    const family = this.#names.getUint16(offset, true);
    const port = this.#names.getUint16(offset + 2);
    if (family === AF_INET) {
      const key = this.#names.getUint32(offset + 4) * 65_536 + port;
      return this.#known.get(key) ?? this.#learn(key, offset + 4, 4, port);
    }
    if (family !== AF_INET6) return undefined;
    const bytes = new Uint8Array(this.#names.buffer, offset + 8, 16);
    const key = `${bytes} ${port}`;
    return this.#known.get(key) ?? this.#learn(key, offset + 8, 16, port);
  }

  #learn(key: number | string, offset: number, length: number, port: number): Authority {
    if (this.#known.size >= MAX_KNOWN_ADDRESSES) this.#known.clear();
    const hostname = formatIp(new Uint8Array(this.#names.buffer, offset, length));
    const address = { hostname, port };
    this.#known.set(key, address);
    return address;
  }
}
