// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Detects closed UDP ports of a peer (ICMP "port unreachable").
 *
 * Linux reports this only to connected sockets, which Deno does not have for UDP. On other systems,
 * or without `--allow-ffi`, it is not detected.
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
  /** Sends a datagram; `isRefused()` shows the outcome later. */
  send(datagram: Uint8Array): void;
  /** Whether one has come back since the last look. */
  isRefused(): boolean;
}

/** A probe of one address; undefined where it cannot be detected. */
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
