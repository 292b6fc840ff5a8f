// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What Deno has no calls for on a TCP listener, on Linux and with `--allow-ffi`. */
import { formatIp } from "./ip_address.ts";
import {
  getOption,
  IPPROTO_TCP,
  libc,
  readSocketAddress,
  setOption,
  SOL_SOCKET,
  TCP_NODELAY,
} from "./libc.ts";
import { setCarrierOptions } from "./tcp_carrier.ts";
import { setKeepaliveOptions } from "./tcp_keepalive.ts";
import { setLinger } from "./tcp_reset.ts";

/** socket(7) */
const SO_ATTACH_FILTER = 26;
const SO_ACCEPTCONN = 30;

/** `struct sock_filter`: one instruction of BPF, "return 0", which drops each packet. */
const DROP_ALL = Uint8Array.of(0x06, 0, 0, 0, 0, 0, 0, 0);

/** Listeners are opened at the start, and have low descriptors. */
const MAX_DESCRIPTOR = 1_024;

/**
 * Sets the options of a tunnel's connection on a listener: connections that it accepts have them
 * from the start (accept(2)), without calls for each.
 *
 * @param keepaliveMs idle time until a connection is probed, 0 for no probes
 * @returns whether that was possible
 */
export function setAcceptedOptions(listener: Deno.TcpListener, keepaliveMs: number): boolean {
  const fds = descriptorsOf(listener);
  for (const fd of fds) {
    setOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    setKeepaliveOptions(fd, keepaliveMs);
    setLinger(fd, true);
  }
  return fds.length > 0;
}

/**
 * Prepares the connections of a listener for carriers of datagrams, which have no calls for that if
 * they are of TLS.
 */
export function setAcceptedCarrierOptions(listener: Deno.TcpListener | Deno.TlsListener): void {
  for (const fd of descriptorsOf(listener)) setCarrierOptions(fd);
}

/**
 * Has the system answer no further clients of a listener that is to be closed, which resets the
 * connections in its queue; those can still be accepted. A socket filter does that (socket(7)).
 * The others try again after about 1 s (RFC 6298, Section 2), and are refused if the listener is
 * closed by then. Without the C library, nothing happens.
 */
export function ignoreNewClients(listener: Deno.TcpListener): void {
  for (const fd of descriptorsOf(listener)) {
    // struct sock_fprog
    const at = Deno.UnsafePointer.value(Deno.UnsafePointer.of(DROP_ALL));
    const program = BigUint64Array.of(1n, BigInt(at));
    libc!.setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, program, program.byteLength);
  }
}

function descriptorsOf({ addr }: Deno.TcpListener | Deno.TlsListener): number[] {
  if (!libc) return [];
  const { hostname, port } = addr as Deno.NetAddr;
  return Array.from({ length: MAX_DESCRIPTOR }, (_, fd) => fd).filter((fd) => {
    const own = readSocketAddress(fd, "socket");
    return own?.port === port && formatIp(own.ip) === hostname &&
      getOption(fd, SOL_SOCKET, SO_ACCEPTCONN) === 1;
  });
}
