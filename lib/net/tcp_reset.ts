// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Resets of TCP connections (RST, RFC 9293 §3.10.5), for which Deno has no call: its `close()` always sends FIN first,
 * after which a peer takes what it got for all there was.
 *
 * On Linux, `connect()` to an address of no family breaks a connection off by RST (connect(2)). Elsewhere, and without
 * `--allow-ffi`, there are no resets.
 */
import { ipBytes, unmapIp } from "./ip_address.ts";

const LIBC = "libc.so.6";
const AF_INET = 2;
const AF_INET6 = 10;

/** Bytes of `struct sockaddr_in6`; that of IPv4 has fewer. */
const ADDRESS_BYTES = 28;

/** `struct sockaddr` of the family AF_UNSPEC. */
const NO_ADDRESS = new Uint8Array(16);

/** `SOL_SOCKET` and `SO_LINGER` (socket(7)), the same on x86-64 and arm64. */
const SOL_SOCKET = 1;
const SO_LINGER = 13;

/** Descriptors that may have been opened between the look at the next one and a connection's own. */
const OPENED_MEANWHILE = 1024;

// Opened once, and before any connection needs it.
const libc = openLibc();

/** Descriptors of connections that Deno itself tells none of. */
const descriptors = new WeakMap<Deno.TcpConn, number>();

/** No descriptor of such a connection is higher than this and a few. */
let highest = 0;

function openLibc() {
  if (Deno.build.os !== "linux") return undefined;
  try {
    // Without asking: a program that may not use it goes without.
    if (Deno.permissions.querySync({ name: "ffi", path: LIBC }).state !== "granted") {
      return undefined;
    }
    const nameOf = { parameters: ["i32", "buffer", "buffer"], result: "i32" } as const;
    return Deno.dlopen(LIBC, {
      close: { parameters: ["i32"], result: "i32" },
      connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
      eventfd: { parameters: ["u32", "i32"], result: "i32" },
      getpeername: nameOf,
      getsockname: nameOf,
      setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
    }).symbols;
  } catch {
    return undefined;
  }
}

/** Whether there are resets here. */
export const canResetTcp = libc !== undefined;

/** `Deno.connect` by TCP to an IP address, for a connection that {@linkcode resetTcp} can reset. */
export async function connectTcp(options: Deno.ConnectOptions): Promise<Deno.TcpConn> {
  const next = nextDescriptor();
  const connection = await Deno.connect(options);
  const fd = next === undefined ? undefined : search(connection, next);
  if (fd !== undefined) descriptors.set(connection, fd);
  return connection;
}

/**
 * Resets a connection that is open, and was accepted or comes from {@linkcode connectTcp}. It has to be closed all the
 * same.
 *
 * @returns whether the peer gets RST; if not, nothing was done
 */
export function resetTcp(connection: Deno.TcpConn): boolean {
  const fd = descriptorOf(connection);
  return fd !== undefined && libc!.connect(fd, NO_ADDRESS, NO_ADDRESS.length) === 0;
}

/**
 * Has the system reset such a connection, or not any more, when this process ends without having closed it, as when it is
 * killed: by itself it would say that this was all. To be taken back before the connection is closed in order.
 */
export function resetTcpAtExit(connection: Deno.TcpConn, reset: boolean): void {
  const fd = descriptorOf(connection);
  if (fd === undefined) return;
  // struct linger: on, and for 0 s.
  const linger = Int32Array.of(reset ? 1 : 0, 0);
  libc!.setsockopt(fd, SOL_SOCKET, SO_LINGER, linger, linger.byteLength);
}

function descriptorOf(connection: Deno.TcpConn): number | undefined {
  if (!libc) return undefined;
  const fd = descriptors.get(connection) ?? acceptedDescriptorOf(connection);
  return fd !== undefined && isOf(connection, fd) ? fd : undefined;
}

/** What Deno tells of a connection that was accepted. */
function acceptedDescriptorOf(connection: Deno.TcpConn): number | undefined {
  const key = Object.getOwnPropertySymbols(connection)
    .find(({ description }) => description === "Deno.internal.fd");
  const fd: unknown = key && Reflect.get(connection, key);
  return typeof fd === "number" ? fd : undefined;
}

/** The descriptor that the system hands out next, which is the lowest that is free. */
function nextDescriptor(): number | undefined {
  if (!libc) return undefined;
  const fd = libc.eventfd(0, 0);
  if (fd < 0) return undefined;
  libc.close(fd);
  highest = Math.max(highest, fd);
  return fd;
}

/** Looks for a connection's descriptor, which mostly is the first one looked at. */
function search(connection: Deno.TcpConn, next: number): number | undefined {
  for (let fd = next; fd <= highest + OPENED_MEANWHILE; fd++) {
    if (isOf(connection, fd)) return fd;
  }
  for (let fd = next - 1; fd >= 0; fd--) {
    if (isOf(connection, fd)) return fd;
  }
  return undefined;
}

/** Whether a descriptor is that of a connection: no other one must ever be reset. */
function isOf({ localAddr, remoteAddr }: Deno.TcpConn, fd: number): boolean {
  return hasAddress(libc!.getsockname, fd, localAddr) &&
    hasAddress(libc!.getpeername, fd, remoteAddr);
}

type GetName = (fd: number, address: BufferSource, length: BufferSource) => number;

const address = new DataView(new ArrayBuffer(ADDRESS_BYTES));
const length = new Uint32Array(1);

function hasAddress(getName: GetName, fd: number, { hostname, port }: Deno.NetAddr): boolean {
  length[0] = ADDRESS_BYTES;
  if (getName(fd, address, length) !== 0 || address.getUint16(2) !== port) return false;
  const ip = ipBytes(hostname.replace(/%.*$/, ""));
  const known = ipAt(address);
  return ip?.length === known?.length && (ip?.every((byte, i) => byte === known![i]) ?? false);
}

/** The IP address of a `struct sockaddr` (ip(7), ipv6(7)). */
function ipAt({ buffer }: DataView<ArrayBuffer>): Uint8Array | undefined {
  const [family] = new Uint16Array(buffer, 0, 1);
  if (family === AF_INET) return new Uint8Array(buffer, 4, 4);
  return family === AF_INET6 ? unmapIp(new Uint8Array(buffer, 8, 16)) : undefined;
}
