// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- its one line tells the benchmark that the devices are there

/**
 * A cable between two TUN devices, on Linux and for root: whatever IP packet is sent into one comes out of the other,
 * after some time, or gets lost. The kernel sees devices like others, of 1500 bytes and without offloads, so that TCP and
 * QUIC meet the same link, packet by packet.
 *
 * Its arguments are the devices' names, the time of one way in milliseconds, and the share that is lost.
 */
import { seededRandom } from "../tests/support/udp_relay.ts";

const O_RDWR_NONBLOCK = 0o4002;
const TUNSETIFF = 0x400454can;
const IFF_TUN_NO_PI = 0x1001;
const IFREQ_BYTES = 40;
const POLLIN = 1;
const POLLFD_BYTES = 8;

const MAX_PACKET_BYTES = 2048;
/** Packets on their way at most, each way: what a fast sender has under way, many times. */
const MAX_QUEUED = 50_000;
/** Packets that are taken at a time from one side. */
const MAX_BATCH = 256;
/** How long it waits when nothing is under way. */
const IDLE_MS = 100;

const { symbols: libc } = Deno.dlopen("libc.so.6", {
  ioctl: { parameters: ["i32", "u64", "buffer"], result: "i32" },
  open: { parameters: ["buffer", "i32"], result: "i32" },
  poll: { parameters: ["buffer", "u64", "i32"], result: "i32", nonblocking: true },
  read: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
});

const encoder = new TextEncoder();

interface Packet {
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** When it comes out. */
  readonly at: number;
}

/** One end of the cable. */
class Device {
  readonly fd: number;
  /** Packets that come out here, in their order. */
  readonly #queue: Packet[] = [];
  #next = 0;

  constructor(name: string) {
    this.fd = libc.open(encoder.encode("/dev/net/tun\0"), O_RDWR_NONBLOCK);
    const request = new Uint8Array(IFREQ_BYTES);
    request.set(encoder.encode(name));
    new DataView(request.buffer).setUint16(16, IFF_TUN_NO_PI, true);
    if (this.fd < 0 || libc.ioctl(this.fd, TUNSETIFF, request) < 0) {
      throw new Error(`cannot create the TUN device ${name}`);
    }
  }

  get nextAt(): number {
    return this.#queue[this.#next]?.at ?? Infinity;
  }

  queue(packet: Packet): void {
    if (this.#queue.length - this.#next < MAX_QUEUED) this.#queue.push(packet);
  }

  /** Lets out what is due. */
  release(now: number): void {
    while (this.nextAt <= now) {
      const { bytes } = this.#queue[this.#next++]!;
      libc.write(this.fd, bytes, BigInt(bytes.length));
    }
    if (this.#next > MAX_QUEUED) this.#queue.splice(0, this.#next), this.#next = 0;
  }

  /** Takes what was sent into it. */
  take(packet: (bytes: Uint8Array<ArrayBuffer>) => void): void {
    for (let i = 0; i < MAX_BATCH; i++) {
      const bytes = new Uint8Array(MAX_PACKET_BYTES);
      const length = Number(libc.read(this.fd, bytes, BigInt(MAX_PACKET_BYTES)));
      if (length <= 0) return;
      packet(bytes.subarray(0, length));
    }
  }
}

const [nearName, farName, delay, loss] = Deno.args as [string, string, string, string];
const delayMs = Number(delay);
const lossShare = Number(loss);
const near = new Device(nearName);
const far = new Device(farName);
const ways = [[near, far], [far, near]] as const;
const random = seededRandom(1);
console.error("devices are there");

const polled = new DataView(new ArrayBuffer(2 * POLLFD_BYTES));
for (const [i, { fd }] of [near, far].entries()) {
  polled.setInt32(i * POLLFD_BYTES, fd, true);
  polled.setInt16(i * POLLFD_BYTES + 4, POLLIN, true);
}
const descriptors = new Uint8Array(polled.buffer);
for (;;) {
  const waitMs = Math.min(IDLE_MS, Math.min(near.nextAt, far.nextAt) - performance.now());
  await libc.poll(descriptors, 2n, Math.max(0, Math.ceil(waitMs)));
  const now = performance.now();
  for (const [from, to] of ways) {
    from.take((bytes) => {
      if (random() >= lossShare) to.queue({ bytes, at: now + delayMs });
    });
  }
  for (const device of [near, far]) device.release(now);
}
