// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { dialCarrier, type DialCarrierOptions } from "../connect_udp/dial_carrier.ts";
import type { HttpProxy } from "../connect_udp/http_proxy.ts";
import { bypassesProxy, type NoProxy } from "../connect_udp/no_proxy.ts";
import { RedialingSocket } from "../connect_udp/redialing_socket.ts";
import type { Authority } from "../net/authority.ts";
import { ipBytes } from "../net/ip_address.ts";
import { Resolver } from "../net/resolver.ts";
import { CARRIER_HANDSHAKE_MS, identityOf } from "../quic/mod.ts";
import type { Fallback } from "./fallback.ts";
import { type ConnectOptions, type OpenConnection, openConnection } from "./open_connection.ts";

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
 * @param address IP address and port of the server
 */
export function dialOptionsOf(
  address: Authority,
  config: CarrierConfig & Pick<ConnectOptions, "tls" | "serverName">,
): DialCarrierOptions {
  const { fallback, proxy, noProxy, serverResolver = new Resolver() } = config;
  const server = fallback?.server ?? address;
  const { ca } = identityOf(config.tls);
  return {
    server,
    resolve: (name, signal) => serverResolver.resolve(name, signal),
    serverName: fallback?.url?.host ?? config.serverName,
    caCerts: [new TextDecoder().decode(ca)],
    target: address,
    ...(fallback?.url && { template: fallback.url.template }),
    proxy:
      noProxy && [server, ...namesOf(server, config)].some((each) => bypassesProxy(noProxy, each))
        ? undefined
        : proxy,
  };
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
 * Connects to a server over TCP, and goes on over another TCP connection when one is lost.
 *
 * @param address its IP address and port
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
  const dial = (signal: AbortSignal) =>
    dialCarrier({ ...dialOptionsOf(address, config), timeoutMs }, signal);
  const first = await dial(signal);
  const carrierHandshakeTimeoutMs = Math.min(timeoutMs, CARRIER_HANDSHAKE_MS);
  return await openConnection(
    address,
    { ...config, carrierHandshakeTimeoutMs },
    signal,
    (events) => new RedialingSocket(first, { dial, peer: address }, events),
  );
}
