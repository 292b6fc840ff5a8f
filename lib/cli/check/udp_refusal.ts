// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Whether a machine says that nothing listens at one of its UDP ports (ICMP "port unreachable").
 *
 * Linux tells that only to sockets that are connected to the address, and Deno has none for UDP.
 * Elsewhere, and without `--allow-ffi`, it is not told.
 */
import type { Authority } from "../../net/authority.ts";
import { ipBytes } from "../../net/ip_address.ts";
import {
  AF_INET,
  AF_INET6,
  getOption,
  libc,
  SOCK_DGRAM,
  SOCKADDR_BYTES,
  SOL_SOCKET,
  writeSocketAddress,
} from "../../net/libc.ts";

const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
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
  { hostname, port }: Authority,
): RefusalProbe | undefined {
  const ip = ipBytes(hostname);
  if (!libc || !ip) return undefined;
  const { socket, connect, write, close } = libc;
  const family = ip.length === 4 ? AF_INET : AF_INET6;
  const fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const address = new DataView(new ArrayBuffer(SOCKADDR_BYTES));
  connect(fd, address, writeSocketAddress(address, ip, port));
  return {
    send: (datagram) => void write(fd, Uint8Array.from(datagram), BigInt(datagram.length)),
    isRefused: () => getOption(fd, SOL_SOCKET, SO_ERROR) === ECONNREFUSED,
    [Symbol.dispose]: () => void close(fd),
  };
}
