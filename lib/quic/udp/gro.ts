// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Generic receive offload for UDP, on Linux 5.0 and later (udp(7), UDP_GRO): the kernel hands over
 * datagrams of one size that came together as one message.
 */
import {
  AF_INET,
  getOption,
  libc,
  readSocketAddress,
  setOption,
  SOCK_DGRAM,
  SOCKADDR_BYTES,
  SOL_UDP,
  writeSocketAddress,
} from "../../net/libc.ts";

const UDP_GRO = 104;
const SOCK_NONBLOCK = 0o4000;
const O_CLOEXEC = 0o2000000;

const LOOPBACK = Uint8Array.of(127, 0, 0, 1);

/** `CMSG_SPACE(4)`. */
export const GRO_CMSG_BYTES = 24;

/**
 * The size of the datagrams in a message.
 *
 * @param offset of what the kernel has written for the message, of this many bytes
 * @returns undefined when the message is one datagram
 */
export function segmentBytes(control: DataView, offset: number, bytes: number): number | undefined {
  const isTold = bytes >= GRO_CMSG_BYTES - 4 &&
    control.getInt32(offset + 8, true) === SOL_UDP &&
    control.getInt32(offset + 12, true) === UDP_GRO;
  const size = isTold ? control.getInt32(offset + 16, true) : 0;
  return size > 0 ? size : undefined;
}

/**
 * Hands out the datagrams of a message: all of one size but for the last, which may be shorter.
 *
 * @param datagram must not keep the bytes
 */
export function split(
  message: Uint8Array,
  segmentBytes: number,
  datagram: (bytes: Uint8Array) => void,
): void {
  for (let at = 0; at < message.length; at += segmentBytes) {
    datagram(message.subarray(at, at + segmentBytes));
  }
}

/**
 * Turns offload on and off for a socket of Deno's.
 *
 * Deno's receive call gets a message without the size of its datagrams, so it must not read one. As
 * long as offload is on, the descriptor that Deno calls belongs to another socket, the bell. Its
 * event loop has registered the first one, which stays open by another descriptor, and goes on to
 * wait for that (epoll(7), question 6). When it is readable, Deno reads from the bell what
 * {@linkcode ring} has put there, and the call is over without a datagram.
 */
export class ReceiveOffload {
  readonly #denoFd: number;
  readonly #fd: number;
  #bell: { readonly fd: number; readonly port: number } | undefined;
  readonly #stroke = new Uint8Array(1);
  #isOn = false;
  #isEnding = false;

  /**
   * @param denoFd the descriptor that Deno calls
   * @param fd another one of the same socket
   */
  constructor(denoFd: number, fd: number) {
    this.#denoFd = denoFd;
    this.#fd = fd;
  }

  /** Whether messages may have several datagrams, and Deno's calls go to the bell. */
  get isOn(): boolean {
    return this.#isOn;
  }

  /** Turns it on, while no receive call is under way. Returns whether that is possible here. */
  begin(): boolean {
    this.#bell ??= makeBell();
    if (!this.#bell) return false;
    while (this.#isRung());
    setOption(this.#fd, SOL_UDP, UDP_GRO, 1);
    if (getOption(this.#fd, SOL_UDP, UDP_GRO) !== 1) return false;
    this.#isEnding = false;
    this.#isOn = libc!.dup3(this.#bell.fd, this.#denoFd, O_CLOEXEC) >= 0;
    if (!this.#isOn) setOption(this.#fd, SOL_UDP, UDP_GRO, 0);
    return this.#isOn;
  }

  /**
   * Ends the next receive call at once, or, after the call was made, as soon as there is something
   * to receive. Once for each call. Returns false when that failed.
   */
  ring(): boolean {
    return libc!.write(this.#bell!.fd, this.#stroke, 1n) === 1n;
  }

  /** Whether it is the bell that a receive call has read from. */
  isBell({ hostname, port }: Deno.NetAddr): boolean {
    return port === this.#bell?.port && hostname === "127.0.0.1";
  }

  /** Takes the first step of {@linkcode end} back. */
  keep(): void {
    if (this.#isEnding) setOption(this.#fd, SOL_UDP, UDP_GRO, 1);
    this.#isEnding = false;
  }

  /**
   * Turns it off in two steps, called twice: what was about to be queued when the kernel was told is
   * there by the second one.
   */
  end(): void {
    if (this.#isEnding) this.#restore();
    else setOption(this.#fd, SOL_UDP, UDP_GRO, 0);
    this.#isEnding = !this.#isEnding;
  }

  /** Gives Deno its socket back, before it is closed. */
  close(): void {
    this.#restore();
    if (this.#bell) libc!.close(this.#bell.fd);
    this.#bell = undefined;
  }

  #restore(): void {
    if (this.#isOn) libc!.dup3(this.#fd, this.#denoFd, O_CLOEXEC);
    this.#isOn = false;
  }

  #isRung(): boolean {
    return libc!.read(this.#bell!.fd, this.#stroke, 1n) === 1n;
  }
}

/** Makes a socket that is connected to itself; undefined where such a one does not work. */
function makeBell(): { readonly fd: number; readonly port: number } | undefined {
  const fd = libc!.socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | O_CLOEXEC, 0);
  if (fd < 0) return undefined;
  const address = new DataView(new ArrayBuffer(SOCKADDR_BYTES));
  libc!.bind(fd, address, writeSocketAddress(address, LOOPBACK, 0));
  const port = readSocketAddress(fd, "socket")?.port ?? 0;
  const length = writeSocketAddress(address, LOOPBACK, port);
  const stroke = new Uint8Array(1);
  const works = libc!.connect(fd, address, length) === 0 &&
    libc!.write(fd, stroke, 1n) === 1n && libc!.read(fd, stroke, 1n) === 1n;
  if (works) return { fd, port };
  libc!.close(fd);
  return undefined;
}
