// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Many datagrams with one call into the system, on Linux: `sendmsg` with UDP_SEGMENT, and
 * `recvmmsg`, while there are many with UDP_GRO. Deno's own receive call tells when there is
 * something to receive.
 */
import type { Authority } from "../../net/authority.ts";
import {
  errno,
  getOption,
  IPPROTO_IP,
  IPPROTO_IPV6,
  libc,
  MSG_DONTWAIT,
  nextDescriptor,
  readSocketAddress,
  setOption,
  SOCK_DGRAM,
  SOL_SOCKET,
} from "../../net/libc.ts";
import { ErrorQueue } from "./error_queue.ts";
import { ReceiveOffload } from "./gro.ts";
import { Incoming, Outgoing } from "./messages.ts";

const SO_TYPE = 3;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const IP_MTU_DISCOVER = 10;
const IPV6_MTU_DISCOVER = 23;
/** Sets DF, and ignores the kernel's path MTU. */
const PMTUDISC_PROBE = 3;
const EIO = 5;
const EAGAIN = 11;
const EINVAL = 22;
const EMSGSIZE = 90;
const ENOBUFS = 105;

/** Segments of one call; kernels before 6.9 take no more. */
const MAX_SEGMENTS = 64;
/** What one datagram of IPv4 may have, and so all segments of a call together. */
const MAX_CALL_BYTES = 65_507;

/** Messages received with one call. */
const RECEIVE_BATCH = 64;

/** The same of messages of many datagrams, and their size. */
const BURST_BATCH = 8;
const BURST_BYTES = 1 << 16;

/** Datagrams of one call that make it worth while to get them in bursts. */
const BEGIN_BURSTS_AT = 32;

/** Datagrams between two looks that keep it so. */
const KEEP_BURSTS_AT = 1_000;

/** Looks may find something just before the bell rings, but rarely. */
const MAX_SILENCES = 5;

const F_DUPFD_CLOEXEC = 1030;
const POLLOUT = 4;

/** Wait for room, between two looks whether the socket was closed. */
const ROOM_LOOK_MS = 100;

/**
 * What the kernel is asked to keep for the socket; it gives what net.core.rmem_max and wmem_max
 * allow.
 */
const SOCKET_BUFFER_BYTES = 4 << 20;

/** Descriptors that are looked at for the socket's own. */
const MAX_DESCRIPTORS = 4096;

/** What became of datagrams that were to be sent. */
export type SendResult =
  /** They are on their way. */
  | "sent"
  /** There is no room for them now. */
  | "full"
  /** They are larger than what the interface carries. */
  | "too-big"
  | "failed";

/** What a batch is told. */
export interface UdpBatchEvents {
  /** As {@linkcode ErrorQueue} says it. */
  refused(datagram: Uint8Array): void;
}

/** The calls for many datagrams, on a socket of Deno's. */
export class UdpBatch {
  readonly #fd: number;
  readonly #isV6: boolean;
  readonly #events: UdpBatchEvents;
  readonly #errors: ErrorQueue;
  readonly #outgoing: Outgoing;
  readonly #incoming: Incoming;
  readonly #maxDatagramBytes: number;
  readonly #offload: ReceiveOffload;
  #bursts: Incoming | undefined;
  /** Whether bursts are worth a try here. */
  #mayBurst = true;
  /** Datagrams, and rings of the bell, since the last look. */
  #received = 0;
  #rings = 0;
  /** Looks that have found what no ring had told. */
  #silences = 0;
  /** Whether there may be more, and so no bell will ring. */
  #hasMore = false;
  readonly #poll = new DataView(new ArrayBuffer(8));
  #segments = true;

  private constructor(
    denoFd: number,
    fd: number,
    isV6: boolean,
    maxDatagramBytes: number,
    events: UdpBatchEvents,
  ) {
    this.#fd = fd;
    this.#offload = new ReceiveOffload(denoFd, fd);
    this.#maxDatagramBytes = maxDatagramBytes;
    this.#isV6 = isV6;
    this.#events = events;
    this.#errors = new ErrorQueue(fd, isV6);
    this.#outgoing = new Outgoing();
    this.#incoming = new Incoming(RECEIVE_BATCH, maxDatagramBytes, maxDatagramBytes);
    this.#poll.setInt32(0, fd, true);
    this.#poll.setInt16(4, POLLOUT, true);
  }

  /**
   * Binds a socket by `listen`, and finds its descriptor.
   *
   * @param maxDatagramBytes longer datagrams are dropped
   * @returns the socket, and the calls if there are any for it
   */
  static bind(
    listen: () => Deno.DatagramConn,
    maxDatagramBytes: number,
    events: UdpBatchEvents,
  ): { socket: Deno.DatagramConn; batch: UdpBatch | undefined } {
    const next = nextDescriptor();
    const socket = listen();
    const denoFd = next === undefined ? undefined : descriptorOf(socket.addr as Deno.NetAddr, next);
    const fd = denoFd === undefined ? -1 : libc!.fcntl(denoFd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) return { socket, batch: undefined };
    const { isV6 } = readSocketAddress(fd, "socket")!;
    setOption(fd, SOL_SOCKET, SO_RCVBUF, SOCKET_BUFFER_BYTES);
    setOption(fd, SOL_SOCKET, SO_SNDBUF, SOCKET_BUFFER_BYTES);
    setOption(fd, IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE);
    if (isV6) setOption(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE);
    return { socket, batch: new UdpBatch(denoFd!, fd, isV6, maxDatagramBytes, events) };
  }

  /**
   * Most datagrams of a size that one call takes; of two sizes, the last may be the smaller one.
   */
  maxSegments(bytes: number): number {
    return this.#segments ? Math.min(MAX_SEGMENTS, Math.floor(MAX_CALL_BYTES / bytes)) : 1;
  }

  /**
   * Sends datagrams that lie one behind the other, all of the same size, but for the last, which
   * may be shorter.
   *
   * @param bytes all of them, in a buffer that stays where it is
   * @returns how far it got; with `failed` the rest is lost
   */
  send(bytes: Uint8Array, segmentBytes: number, to: Authority): SendResult {
    if (!this.#outgoing.address(to, this.#isV6)) return "failed";
    if (this.#outgoing.send(this.#fd, bytes, segmentBytes)) return "sent";
    let error = errno();
    // A call reports what an earlier datagram has met, and does nothing else.
    if (error !== EAGAIN && this.readErrors()) {
      if (this.#outgoing.send(this.#fd, bytes, segmentBytes)) return "sent";
      error = errno();
    }
    switch (error) {
      case EAGAIN:
      case ENOBUFS:
        return "full";
      case EMSGSIZE:
        return "too-big";
      case EIO:
      case EINVAL:
        // The interface cannot, or a rule of the machine does not let it.
        if (bytes.length <= segmentBytes || !this.#segments) return "failed";
        this.#segments = false;
        return this.#sendEach(bytes, segmentBytes);
      default:
        return "failed";
    }
  }

  #sendEach(bytes: Uint8Array, segmentBytes: number): SendResult {
    let result: SendResult = "sent";
    for (let offset = 0; offset < bytes.length; offset += segmentBytes) {
      const one = bytes.subarray(offset, offset + segmentBytes);
      if (!this.#outgoing.send(this.#fd, one, segmentBytes)) result = "failed";
    }
    return result;
  }

  /** Waits for room for what was to be sent, up to a bound. Returns whether there is some. */
  async room(): Promise<boolean> {
    return await libc!.poll(this.#poll, 1n, ROOM_LOOK_MS) > 0;
  }

  /**
   * Waits until there is something to receive.
   *
   * @returns the datagram that came first, unless it is handed out by {@linkcode receive}
   */
  async received(
    receive: () => Promise<[Uint8Array, Deno.Addr]>,
  ): Promise<[Uint8Array, Deno.Addr] | undefined> {
    const { isOn } = this.#offload;
    // With more to come it ends at once.
    if (isOn && this.#hasMore) this.#offload.ring();
    const received = receive();
    if (isOn && !this.#hasMore) this.#offload.ring();
    const got = await received;
    if (!this.#offload.isBell(got[1] as Deno.NetAddr)) return got;
    this.#rings++;
    return undefined;
  }

  /** Whether {@linkcode look} is to be called now and then. */
  get isBursting(): boolean {
    return this.#offload.isOn;
  }

  /** Hands out what has come, up to a bound. */
  receive(datagram: (bytes: Uint8Array, from: Authority) => void): void {
    const { isOn } = this.#offload;
    if (isOn) this.#bursts ??= new Incoming(BURST_BATCH, BURST_BYTES, this.#maxDatagramBytes);
    const incoming = isOn ? this.#bursts! : this.#incoming;
    const { messages, size } = incoming;
    const count = libc!.recvmmsg(this.#fd, messages, size, MSG_DONTWAIT, null);
    // A call reports what an earlier datagram has met, and does nothing else.
    const failed = isOn && count < 0 && errno() !== EAGAIN;
    if (failed) this.readErrors();
    this.#hasMore = failed || count === size;
    this.#received += incoming.handOut(count, datagram);
    if (count < BEGIN_BURSTS_AT || isOn || !this.#mayBurst) return;
    this.#mayBurst = this.#offload.begin();
    // What has come since rings no bell.
    this.#hasMore = true;
  }

  /** Looks whether datagrams still come in bursts, and the bell rings. */
  look(datagram: (bytes: Uint8Array, from: Authority) => void): void {
    if (!this.#offload.isOn) return;
    const before = this.#received;
    this.receive(datagram);
    if (!this.#offload.isOn) return;
    const isSilent = this.#received > before && this.#rings === 0;
    if (isSilent && ++this.#silences === MAX_SILENCES) this.#mayBurst = false;
    if (this.#received < KEEP_BURSTS_AT || isSilent) this.#offload.end();
    else this.#offload.keep();
    this.#received = this.#rings = 0;
  }

  /** Frees what it has beside the socket, which is closed after that. */
  close(): void {
    this.#mayBurst = false;
    this.#offload.close();
    libc!.close(this.#fd);
  }

  /** Reads what ICMP has told since. Returns whether that was anything. */
  readErrors(): boolean {
    return this.#errors.read((datagram) => this.#events.refused(datagram));
  }
}

/** The descriptor of a socket that was bound just now, which usually is the first one looked at. */
function descriptorOf(address: Deno.NetAddr, next: number): number | undefined {
  for (let i = 0; i < MAX_DESCRIPTORS; i++) {
    const fd = (next + i) % MAX_DESCRIPTORS;
    const isAt = readSocketAddress(fd, "socket")?.port === address.port;
    if (isAt && getOption(fd, SOL_SOCKET, SO_TYPE) === SOCK_DGRAM) return fd;
  }
  return undefined;
}
