// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Carrier } from "../connect_udp/carrier_socket.ts";
import { dialCarrier, type DialCarrierOptions } from "../connect_udp/dial_carrier.ts";
import type { HttpProxy } from "../connect_udp/http_proxy.ts";
import { bypassesProxy, type NoProxy } from "../connect_udp/no_proxy.ts";
import { RedialingSocket } from "../connect_udp/redialing_socket.ts";
import type { Authority } from "../net/authority.ts";
import { formatIp, ipBytes, isIpAddress } from "../net/ip_address.ts";
import { Resolver } from "../net/resolver.ts";
import { CARRIER_HANDSHAKE_MS, identityOf } from "../quic/mod.ts";
import type { Fallback } from "./fallback.ts";
import { type ConnectOptions, type OpenConnection, openConnection } from "./open_connection.ts";
import type { ByName } from "./server_addresses.ts";
import type { TransportChoice } from "./transport_policy.ts";

/** How an agent reaches servers over TCP. */
export interface CarrierConfig {
  /** Stands for all servers. @default the address of each server */
  readonly fallback?: Fallback | undefined;
  /** The HTTP proxy to connect through. */
  readonly proxy?: HttpProxy | undefined;
  /** What is connected to without it. */
  readonly noProxy?: NoProxy | undefined;
  /** The servers as they are named, for `noProxy`. */
  readonly servers?: readonly Authority[];
  /** Resolves the names of fallbacks and proxies. @default {the system's} */
  readonly serverResolver?: Resolver;
}

/**
 * How to connect to a server over TCP.
 *
 * @param address IP address, or name that is left to a proxy, and port of the server
 */
export function dialOptionsOf(
  address: Authority,
  config: CarrierConfig & Pick<ConnectOptions, "tls" | "serverName">,
): DialCarrierOptions {
  const { fallback, serverResolver = new Resolver() } = config;
  const server = fallback?.server ?? address;
  const { ca } = identityOf(config.tls);
  return {
    server,
    resolve: (name, signal) => serverResolver.resolve(name, signal),
    serverName: fallback?.url?.host ?? config.serverName,
    caCerts: [new TextDecoder().decode(ca)],
    target: address,
    ...(fallback?.url && { template: fallback.url.template }),
    proxy: proxyFor(server, config),
  };
}

/** The HTTP proxy that a server or fallback is connected to through. */
function proxyFor(server: Authority, config: CarrierConfig): HttpProxy | undefined {
  const { proxy, noProxy } = config;
  const isBypassed = (server: Authority) => noProxy && bypassesProxy(noProxy, server);
  return [server, ...namesOf(server, config)].some(isBypassed) ? undefined : proxy;
}

/**
 * Whether the name of a server may be left to an HTTP proxy, which then connects to one of its
 * addresses, as no other way needs them, or where they cannot be found out.
 */
export function byNameOf(
  server: Authority,
  config: CarrierConfig & { readonly transport: TransportChoice },
): ByName {
  const { fallback, transport } = config;
  if (transport === "udp" || !proxyFor(fallback?.server ?? server, config)) return "never";
  return transport === "tcp" ? "always" : "unresolved";
}

/**
 * What QUIC takes for the address of a server, which it needs: that of the proxy if only the name
 * is known.
 */
export function peerOf(server: Authority, { remoteAddr }: Carrier): Authority {
  return isIpAddress(server.hostname) ? server : remoteAddr;
}

/** The name that a server's address comes from, where there is one that it must come from. */
function namesOf(
  { hostname, port }: Authority,
  { fallback, servers = [] }: CarrierConfig,
): readonly Authority[] {
  const candidates = servers.filter((each) => each.port === port);
  const isNamed = fallback || candidates.some((each) => each.hostname === hostname);
  const names = candidates.filter((each) => ipBytes(each.hostname) === undefined);
  return isNamed || names.length !== 1 ? [] : names;
}

/**
 * Connects to a server over TCP, and goes on over another TCP connection when one is lost, with the
 * same address if it still works.
 *
 * @param address its IP address, or name that is left to a proxy, and port
 * @param timeoutMs how long the TCP connection and what belongs to it may take, and the handshake of
 * QUIC after that
 * @throws {CarrierDialError} when it cannot be made
 * @throws {ConnectionClosedError} when the handshake of QUIC fails
 * @throws the signal's reason when it aborts first
 */
export async function openCarried(
  address: Authority,
  config: CarrierConfig & ConnectOptions,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<OpenConnection> {
  let last: string | undefined;
  const isLast = (ip: Uint8Array) => formatIp(ip) === last;
  // An address that does not answer leaves time for another one.
  const times = { timeoutMs, stepTimeoutMs: timeoutMs / 2 };
  const dial = async (signal: AbortSignal) => {
    // Certificates may have been replaced.
    const options = dialOptionsOf(address, config);
    const resolve = async (name: string, signal: AbortSignal) => {
      const ips = await options.resolve(name, signal);
      return [...ips.filter(isLast), ...ips.filter((ip) => !isLast(ip))];
    };
    const carrier = await dialCarrier({ ...options, ...times, resolve }, signal);
    last = carrier.remoteAddr.hostname;
    return carrier;
  };
  const first = await dial(signal);
  const carrierHandshakeTimeoutMs = Math.min(timeoutMs, CARRIER_HANDSHAKE_MS);
  const peer = peerOf(address, first);
  return await openConnection(
    peer,
    { ...config, carrierHandshakeTimeoutMs },
    signal,
    (events) => new RedialingSocket(first, { dial, peer }, events),
  );
}
