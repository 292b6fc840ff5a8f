// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Whether a machine says that nothing listens at one of its UDP ports (ICMP "port unreachable").
 *
 * Linux tells that only to sockets that are connected to the address, and Deno has none for UDP. Elsewhere, and without
 * `--allow-ffi`, it is not told.
 */
import { ipBytes } from "../../net/ip_address.ts";

const LIBC = "libc.so.6";
const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
/** socket(7), the same on x86-64 and arm64, as the error is. */
const SOL_SOCKET = 1;
const SO_ERROR = 4;
const ECONNREFUSED = 111;

export interface RefusalProbe extends Disposable {
  /** Sends a datagram; what becomes of it shows later. */
  send(datagram: Uint8Array): void;
  /** Whether one has come back since the last look. */
  isRefused(): boolean;
}

/** A probe of one address; undefined where there is no way to know. */
export function openRefusalProbe(
  { host, port }: { readonly host: string; readonly port: number },
): RefusalProbe | undefined {
  const ip = ipBytes(host);
  const libc = ip && openLibc();
  if (!libc) return undefined;
  const { socket, connect, send, getsockopt, close } = libc.symbols;
  const family = ip.length === 4 ? AF_INET : AF_INET6;
  const fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const address = socketAddress(family, ip, port);
  connect(fd, address, address.length);
  const error = new Int32Array(1);
  const length = Uint32Array.of(error.byteLength);
  return {
    send: (datagram) => void send(fd, Uint8Array.from(datagram), BigInt(datagram.length), 0),
    isRefused: () =>
      getsockopt(fd, SOL_SOCKET, SO_ERROR, error, length) === 0 && error[0] === ECONNREFUSED,
    [Symbol.dispose]() {
      close(fd);
      libc.close();
    },
  };
}

function openLibc() {
  if (Deno.build.os !== "linux") return undefined;
  try {
    // Without asking: a program that may not use it goes without.
    if (Deno.permissions.querySync({ name: "ffi", path: LIBC }).state !== "granted") {
      return undefined;
    }
    return Deno.dlopen(LIBC, {
      socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
      connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
      send: { parameters: ["i32", "buffer", "usize", "i32"], result: "isize" },
      getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
      close: { parameters: ["i32"], result: "i32" },
    });
  } catch {
    return undefined;
  }
}

/** A `struct sockaddr_in` or `sockaddr_in6` (ip(7), ipv6(7)). */
function socketAddress(family: number, ip: Uint8Array, port: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(family === AF_INET ? 16 : 28);
  new Uint16Array(bytes.buffer)[0] = family;
  new DataView(bytes.buffer).setUint16(2, port);
  bytes.set(ip, family === AF_INET ? 4 : 8);
  return bytes;
}
