// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- tells on stdout when the link is there

/**
 * A link with delay and loss between two network interfaces, for IP packets of any protocol: what netem does, on kernels
 * that have none. Linux only, as root.
 *
 *     deno run --allow-ffi bench/tun_link.ts NAME NAME DELAY_MS LOSS
 *
 * makes two interfaces, to be moved to network namespaces, and ends with its standard input. The delay is that of one
 * way, the loss a share of the packets of each way.
 */
const [nameA = "", nameB = "", delay = "0", loss = "0"] = Deno.args;
const [delayMs, lossShare] = [Number(delay), Number(loss)];

const O_RDWR = 2;
const O_NONBLOCK = 0x800;
const TUNSETIFF = 0x400454ca;
const IFF_TUN = 1;
const IFF_NO_PI = 0x1000;
const POLLIN = 1;
/** More than the MTU of any interface. */
const PACKET_BYTES = 65_536;
/** Packets under way, each way; further ones are dropped. */
const MAX_QUEUED = 100_000;
/** Packets taken in one go. */
const MAX_BATCH = 256;

const libc = Deno.dlopen("libc.so.6", {
  open: { parameters: ["buffer", "i32"], result: "i32" },
  ioctl: { parameters: ["i32", "u64", "buffer"], result: "i32" },
  poll: { parameters: ["buffer", "u64", "i32"], result: "i32", nonblocking: true },
  read: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
}).symbols;

interface Packet {
  readonly at: number;
  readonly bytes: Uint8Array<ArrayBuffer>;
}

function openTun(name: string): number {
  const fd = libc.open(new TextEncoder().encode("/dev/net/tun\0"), O_RDWR | O_NONBLOCK);
  const request = new Uint8Array(40);
  request.set(new TextEncoder().encode(name));
  new DataView(request.buffer).setUint16(16, IFF_TUN | IFF_NO_PI, true);
  if (fd < 0 || libc.ioctl(fd, BigInt(TUNSETIFF), request) !== 0) {
    throw new Error(`no interface ${name}: it needs /dev/net/tun, and root`);
  }
  return fd;
}

/** One way of the link. */
class Way {
  readonly #from: number;
  readonly #to: number;
  readonly #buffer = new Uint8Array(PACKET_BYTES);
  #queue: Packet[] = [];
  #next = 0;

  constructor(from: number, to: number) {
    this.#from = from;
    this.#to = to;
  }

  /** When the next packet is due. */
  get dueAt(): number {
    return this.#queue[this.#next]?.at ?? Infinity;
  }

  take(now: number): void {
    for (let i = 0; i < MAX_BATCH; i++) {
      const n = Number(libc.read(this.#from, this.#buffer, BigInt(PACKET_BYTES)));
      if (n <= 0) return;
      const isFull = this.#queue.length - this.#next >= MAX_QUEUED;
      if (isFull || Math.random() < lossShare) continue;
      this.#queue.push({ at: now + delayMs, bytes: this.#buffer.slice(0, n) });
    }
  }

  give(now: number): void {
    while (this.dueAt <= now) {
      const { bytes } = this.#queue[this.#next++]!;
      libc.write(this.#to, bytes, BigInt(bytes.length));
    }
    if (this.#next > 1_000) {
      this.#queue = this.#queue.slice(this.#next);
      this.#next = 0;
    }
  }
}

const [a, b] = [openTun(nameA), openTun(nameB)];
const ways = [new Way(a, b), new Way(b, a)];
const polled = new DataView(new ArrayBuffer(16));
for (const [i, fd] of [a, b].entries()) {
  polled.setInt32(8 * i, fd, true);
  polled.setInt16(8 * i + 4, POLLIN, true);
}
let isOpen = true;
Deno.stdin.read(new Uint8Array(1)).then(() => isOpen = false);
console.log("ready");
while (isOpen) {
  const due = Math.min(...ways.map((way) => way.dueAt)) - performance.now();
  const waitMs = Math.max(0, Math.min(Math.floor(due), 100));
  if (waitMs > 0) await libc.poll(new Uint8Array(polled.buffer), 2n, waitMs);
  else await new Promise((resolve) => setTimeout(resolve, 0));
  const now = performance.now();
  for (const way of ways) {
    way.take(now);
    way.give(now);
  }
}
Deno.exit(0);
