// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * What ICMP tells about datagrams that were sent, on Linux: the error queue of a socket (ip(7),
 * IP_RECVERR), with the layouts of `struct msghdr`, `cmsghdr` and `sock_extended_err`.
 */
import {
  addressOf,
  IPPROTO_IP,
  IPPROTO_IPV6,
  libc,
  MSG_DONTWAIT,
  setOption,
} from "../../net/libc.ts";
import { IOVEC_BYTES, MSGHDR_BYTES } from "./messages.ts";

const IP_RECVERR = 11;
const IPV6_RECVERR = 25;
const MSG_ERRQUEUE = 0x2000;
const ECONNREFUSED = 111;
/** SO_EE_ORIGIN_ICMP and SO_EE_ORIGIN_ICMP6; others are errors of this system. */
const ICMP_ORIGINS = [2, 3];

/** A `cmsghdr` of 16 bytes, `sock_extended_err` of 16, and the address of who has told. */
const CONTROL_BYTES = 64;
const ERRNO_AT = 16;
const ORIGIN_AT = 20;
const CONTROL_LENGTH_AT = 40;

/** Enough of a datagram for its connection id. */
const QUOTED_BYTES = 64;

/** Errors read in one go. */
const MAX_ERRORS = 256;

/** The error queue of a UDP socket. */
export class ErrorQueue {
  readonly #fd: number;
  readonly #header = new DataView(new ArrayBuffer(MSGHDR_BYTES));
  readonly #message = new Uint8Array(this.#header.buffer);
  readonly #vector = new BigUint64Array(IOVEC_BYTES / 8);
  readonly #control = new DataView(new ArrayBuffer(CONTROL_BYTES));
  readonly #quoted = new Uint8Array(QUOTED_BYTES);

  /** Has the system fill the queue of a socket. */
  constructor(fd: number, isV6: boolean) {
    this.#fd = fd;
    setOption(fd, IPPROTO_IP, IP_RECVERR, 1);
    if (isV6) setOption(fd, IPPROTO_IPV6, IPV6_RECVERR, 1);
    this.#vector.set([addressOf(this.#quoted.buffer), BigInt(QUOTED_BYTES)]);
    this.#header.setBigUint64(16, addressOf(this.#vector.buffer), true);
    this.#header.setBigUint64(24, 1n, true);
    this.#header.setBigUint64(32, addressOf(this.#control.buffer), true);
  }

  /**
   * Empties the queue, without waiting.
   *
   * @param refused is called with the first bytes of each datagram that no program has received,
   *   as its system has quoted them
   * @returns whether ICMP had told anything: until that is read, other calls fail with it
   */
  read(refused: (datagram: Uint8Array) => void): boolean {
    let isIcmp = false;
    for (let i = 0; i < MAX_ERRORS; i++) {
      this.#header.setBigUint64(CONTROL_LENGTH_AT, BigInt(CONTROL_BYTES), true);
      const bytes = Number(
        libc!.recvmsg(this.#fd, this.#message, MSG_ERRQUEUE | MSG_DONTWAIT),
      );
      if (bytes < 0) break;
      if (!ICMP_ORIGINS.includes(this.#control.getUint8(ORIGIN_AT))) continue;
      isIcmp = true;
      if (this.#control.getUint32(ERRNO_AT, true) !== ECONNREFUSED) continue;
      refused(this.#quoted.subarray(0, bytes));
    }
    return isIcmp;
  }
}
