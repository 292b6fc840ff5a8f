// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The C library of Linux, for what Deno has no calls for. There is none on other systems, and
 * without `--allow-ffi`.
 *
 * Numbers and layouts are those of x86-64 and arm64: socket(7), ip(7), ipv6(7), tcp(7),
 * udp(7).
 */
import { type SocketAddress, unmapIp } from "./ip_address.ts";

const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const SOCK_DGRAM = 2;
export const MSG_DONTWAIT = 0x40;
export const SOL_SOCKET = 1;
export const IPPROTO_IP = 0;
export const IPPROTO_TCP = 6;
export const SOL_UDP = 17;
export const IPPROTO_IPV6 = 41;
export const TCP_NODELAY = 1;

/** Bytes of `struct sockaddr_in6`; `struct sockaddr_in` has 16. */
export const SOCKADDR_BYTES = 28;

const PATH = "libc.so.6";

const getName = { parameters: ["i32", "buffer", "buffer"], result: "i32" } as const;

const symbols = {
  __errno_location: { parameters: [], result: "pointer" },
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  clock: { parameters: [], result: "isize" },
  close: { parameters: ["i32"], result: "i32" },
  dup3: { parameters: ["i32", "i32", "i32"], result: "i32" },
  environ: { type: "pointer" },
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  eventfd: { parameters: ["u32", "i32"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  free: { parameters: ["pointer"], result: "void" },
  getenv: { parameters: ["buffer"], result: "pointer" },
  getpeername: getName,
  getsockname: getName,
  getrlimit: { parameters: ["i32", "buffer"], result: "i32" },
  getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
  malloc_trim: { parameters: ["usize"], result: "i32" },
  memfd_create: { parameters: ["buffer", "u32"], result: "i32" },
  poll: { parameters: ["buffer", "u64", "i32"], result: "i32", nonblocking: true },
  read: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  recvmsg: { parameters: ["i32", "buffer", "i32"], result: "isize" },
  recvmmsg: { parameters: ["i32", "buffer", "u32", "i32", "pointer"], result: "i32" },
  sendmsg: { parameters: ["i32", "buffer", "i32"], result: "isize" },
  setrlimit: { parameters: ["i32", "buffer"], result: "i32" },
  setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
  signal: { parameters: ["i32", "usize"], result: "pointer" },
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  unlink: { parameters: ["buffer"], result: "i32" },
  write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
} as const;

type Libc = Deno.DynamicLibrary<typeof symbols>["symbols"];

/**
 * Functions of the C library; undefined where there is none, or it may not be used. Opened before
 * anything needs it.
 */
export const libc = open();

function open(): Libc | undefined {
  const { os, arch } = Deno.build;
  if (os !== "linux" || (arch !== "x86_64" && arch !== "aarch64")) return undefined;
  try {
    // Without asking: a program that may not use it goes without.
    const { state } = Deno.permissions.querySync({ name: "ffi", path: PATH });
    return state === "granted" ? Deno.dlopen(PATH, symbols).symbols : undefined;
  } catch {
    return undefined;
  }
}

/** Where a buffer is, for structures that point to it; it must not be garbage before they are. */
export function addressOf(buffer: ArrayBufferLike): bigint {
  return Deno.UnsafePointer.value(Deno.UnsafePointer.of(new Uint8Array(buffer)));
}

/** The error number of the call just before. */
export function errno(): number {
  return new Deno.UnsafePointerView(libc!.__errno_location()!).getInt32();
}

/**
 * The names of environment variables that begin like this, for a program that may read those but
 * not ask for all names; undefined without the C library.
 */
export function environmentNames(prefix: string): string[] | undefined {
  // The symbol is the address of the variable, which is the address of a list of addresses.
  const list = libc?.environ && new Deno.UnsafePointerView(libc.environ).getPointer();
  if (!list) return undefined;
  const names: string[] = [];
  const variables = new Deno.UnsafePointerView(list);
  for (let i = 0, text; (text = variables.getPointer(8 * i)) !== null; i++) {
    const bytes = new Deno.UnsafePointerView(text);
    const byteAt = (index: number) => String.fromCharCode(bytes.getUint8(index));
    let name = "";
    // No further than to where it differs, and never into a value.
    while (name.length < prefix.length && byteAt(name.length) === prefix[name.length]) {
      name += prefix[name.length];
    }
    if (name.length < prefix.length) continue;
    for (let next; (next = byteAt(name.length)) !== "=" && next !== "\0";) name += next;
    names.push(name);
  }
  return names;
}

/**
 * Tells the service manager that the program is ready, by sd_notify(3): a datagram to the socket
 * that `NOTIFY_SOCKET` names. Without that variable, or the C library, nothing happens.
 */
export function notifyReady(): void {
  const path = libc?.getenv(ascii("NOTIFY_SOCKET\0"));
  if (!libc || !path) return;
  const name = ascii(new Deno.UnsafePointerView(path).getCString());
  const address = new Uint8Array(2 + name.length);
  new DataView(address.buffer).setUint16(0, AF_UNIX, true);
  address.set(name, 2);
  // An abstract name, which begins with NUL (unix(7)).
  if (name[0] === AT) address[2] = 0;
  const fd = libc.socket(AF_UNIX, SOCK_DGRAM, 0);
  if (fd < 0) return;
  const message = ascii("READY=1");
  if (libc.connect(fd, address, address.length) === 0) {
    libc.write(fd, message, BigInt(message.length));
  }
  libc.close(fd);
}

/**
 * Whether other libraries are loaded before the C library, one of which may be an allocator: what
 * was allocated is not the C library's to free then. True without the C library.
 */
export function isMallocReplaced(): boolean {
  return !libc || libc.getenv(ascii("LD_PRELOAD\0")) !== null;
}

/**
 * Whether a pointer leads to what glibc's malloc() has given for so many bytes, as far as the size
 * of the chunk shows, which precedes it.
 */
export function isAllocated(pointer: Deno.PointerValue, bytes: number): boolean {
  if (pointer === null) return false;
  const before = Deno.UnsafePointer.create(Deno.UnsafePointer.value(pointer) - SIZE_BYTES)!;
  // The lowest three bits are flags.
  const size = new Deno.UnsafePointerView(before).getBigUint64() & ~7n;
  const least = (BigInt(bytes) + SIZE_BYTES + UNIT - 1n) / UNIT * UNIT;
  // What would be left of a chunk is not split off when it is too small for another one.
  return size === least || size === least + UNIT;
}

/** The size of a chunk of glibc's malloc(), and what its sizes are multiples of. */
const SIZE_BYTES = 8n;
const UNIT = 16n;

const AT = 0x40;

const ascii = (text: string) => new TextEncoder().encode(text);

const SIG_IGN = 1n;
const SIGUSR1 = 10;

/** Has the system ignore SIGUSR1, whoever listens to it; without the C library, nothing happens. */
export function ignoreUserSignal1(): void {
  libc?.signal(SIGUSR1, SIG_IGN);
}

/**
 * Removes a file, also where the program no longer has the permission to write. A failure is not
 * reported.
 */
export function unlink(path: string): void {
  if (libc) return void libc.unlink(new TextEncoder().encode(`${path}\0`));
  try {
    Deno.removeSync(path);
  } catch {
    // As when the C library fails.
  }
}

/** getrlimit(2) */
const RLIMIT_NOFILE = 7;

/**
 * Raises the soft limit of open descriptors to the hard one, as Deno itself does, but not in
 * compiled programs. A low soft limit is for programs that use select(2).
 *
 * @returns descriptors that this process may have open; Infinity where that is not known
 */
export function raiseDescriptorLimit(): number {
  const limits = new BigUint64Array(2);
  if (libc?.getrlimit(RLIMIT_NOFILE, limits) !== 0) return Infinity;
  const [soft = 0n, hard = 0n] = limits;
  const raised = soft === hard ||
    libc.setrlimit(RLIMIT_NOFILE, BigUint64Array.of(hard, hard)) === 0;
  return Number(raised ? hard : soft);
}

/** The descriptor that the system hands out next, which is the lowest that is free. */
export function nextDescriptor(): number | undefined {
  const fd = libc?.eventfd(0, 0) ?? -1;
  if (fd < 0) return undefined;
  libc!.close(fd);
  return fd;
}

/** ipv6(7) */
const IPV6_V6ONLY = 26;

/** Whether sockets of IPv6 take no IPv4 here (`net.ipv6.bindv6only`); false where unknown. */
export function isV6OnlyByDefault(): boolean {
  const fd = libc?.socket(AF_INET6, SOCK_DGRAM, 0) ?? -1;
  if (fd < 0) return false;
  const isOnly = getOption(fd, IPPROTO_IPV6, IPV6_V6ONLY) === 1;
  libc!.close(fd);
  return isOnly;
}

/** The value of a socket option, in calls that do not overlap. */
const option = new Int32Array(2);
const optionLength = new Uint32Array(1);

/** Reads a socket option that is an `int`; undefined when the call fails. */
export function getOption(fd: number, level: number, name: number): number | undefined {
  optionLength[0] = Int32Array.BYTES_PER_ELEMENT;
  return libc?.getsockopt(fd, level, name, option, optionLength) === 0 ? option[0] : undefined;
}

/** Sets a socket option that is an `int`, or a structure of two. */
export function setOption(
  fd: number,
  level: number,
  name: number,
  first: number,
  second?: number,
): void {
  option[0] = first;
  option[1] = second ?? 0;
  const count = second === undefined ? 1 : 2;
  libc?.setsockopt(fd, level, name, option, count * Int32Array.BYTES_PER_ELEMENT);
}

/** Writes a socket address, IPv4 as IPv4-mapped IPv6 if `asV6`. Returns its length in bytes. */
export function writeSocketAddress(
  view: DataView,
  ip: Uint8Array,
  port: number,
  asV6 = ip.length === 16,
): number {
  view.setUint16(0, asV6 ? AF_INET6 : AF_INET, true);
  view.setUint16(2, port);
  const bytes = new Uint8Array(view.buffer, view.byteOffset, SOCKADDR_BYTES);
  if (!asV6) {
    bytes.set(ip, 4);
    return 16;
  }
  bytes.fill(0, 4);
  // IPv4-mapped (RFC 4291 §2.5.5.2).
  if (ip.length === 4) bytes.fill(0xff, 18, 20);
  bytes.set(ip, ip.length === 4 ? 20 : 8);
  return SOCKADDR_BYTES;
}

/**
 * The address of a socket, or of its peer; undefined where there is none, or it is of another
 * family.
 */
export function readSocketAddress(
  fd: number,
  of: "socket" | "peer",
): SocketAddress & { readonly isV6: boolean } | undefined {
  const view = new DataView(new ArrayBuffer(SOCKADDR_BYTES));
  const length = Uint32Array.of(SOCKADDR_BYTES);
  const read = of === "socket" ? libc?.getsockname : libc?.getpeername;
  if (read?.(fd, view, length) !== 0) return undefined;
  const family = view.getUint16(0, true);
  if (family !== AF_INET && family !== AF_INET6) return undefined;
  const isV6 = family === AF_INET6;
  const ip = isV6 ? new Uint8Array(view.buffer, 8, 16) : new Uint8Array(view.buffer, 4, 4);
  return { ip: unmapIp(ip), port: view.getUint16(2), isV6 };
}

/**
 * Whether the system has a route and a source address for a destination, which `connect()` of a UDP
 * socket finds out without a packet. True where that is not known.
 */
export function hasLocalAddressFor(ip: Uint8Array): boolean {
  if (!libc) return true;
  const fd = libc.socket(ip.length === 4 ? AF_INET : AF_INET6, SOCK_DGRAM, 0);
  if (fd < 0) return true;
  const view = new DataView(new ArrayBuffer(SOCKADDR_BYTES));
  const length = writeSocketAddress(view, ip, 9);
  const connected = libc.connect(fd, view, length) === 0;
  libc.close(fd);
  return connected;
}
