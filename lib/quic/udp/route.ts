// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What the system says about the route to an address, on Linux. */
import type { Authority } from "../../net/authority.ts";
import { formatIp, ipBytes, unmapIp } from "../../net/ip_address.ts";
import {
  AF_INET,
  AF_INET6,
  getOption,
  IPPROTO_IP,
  IPPROTO_IPV6,
  libc,
  readSocketAddress,
  SOCK_DGRAM,
  SOCKADDR_BYTES,
  writeSocketAddress,
} from "../../net/libc.ts";

const IP_MTU = 14;
const IPV6_MTU = 24;

/** What the headers of IP and UDP take of a packet to an address. */
export function headerBytes({ hostname }: Authority): number {
  const ip = ipBytes(hostname);
  return ip && unmapIp(ip).length === 16 ? 48 : 28;
}

/**
 * The largest UDP payload that the route to an address is said to carry; undefined where that is
 * not known. Whether the path does, is another question.
 */
export function routePayloadBytes(to: Authority): number | undefined {
  return onRoute(to, (fd, isV6) => {
    const mtu = isV6 ? getOption(fd, IPPROTO_IPV6, IPV6_MTU) : getOption(fd, IPPROTO_IP, IP_MTU);
    return mtu === undefined ? undefined : mtu - headerBytes(to);
  });
}

/** The IP address that the system sends from to an address; undefined where that is not known. */
export function sourceHostname(to: Authority): string | undefined {
  return onRoute(to, (fd) => {
    const address = readSocketAddress(fd, "socket");
    return address && formatIp(address.ip);
  });
}

/** Asks something about the route to an address, of a socket that is connected to it. */
function onRoute<T>(to: Authority, ask: (fd: number, isV6: boolean) => T): T | undefined {
  const ip = ipBytes(to.hostname);
  if (!libc || !ip) return undefined;
  const isV6 = ip.length === 16;
  const fd = libc.socket(isV6 ? AF_INET6 : AF_INET, SOCK_DGRAM, 0);
  if (fd < 0) return undefined;
  try {
    const address = new DataView(new ArrayBuffer(SOCKADDR_BYTES));
    const length = writeSocketAddress(address, ip, to.port);
    return libc.connect(fd, address, length) === 0 ? ask(fd, isV6) : undefined;
  } finally {
    libc.close(fd);
  }
}
