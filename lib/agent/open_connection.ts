// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../net/authority.ts";
import {
  type PathOptions,
  pathOptions,
  type QuicConnection,
  QuicEndpoint,
  type TlsIdentity,
  type TlsSource,
} from "../quic/mod.ts";

/** How an agent connects to a server. */
export interface ConnectOptions extends PathOptions {
  /** Name that the server's certificate must have; sent as SNI. */
  readonly serverName: string;
  /** Asked at each connect. */
  readonly tls: TlsIdentity | TlsSource;
  readonly alpn: readonly string[];
  /** Tunnels of one connection at a time. @default {10000} */
  readonly maxStreams?: number;
}

/** A connection to a server, and what it takes. */
export interface OpenConnection {
  readonly connection: QuicConnection;
  /** Closes the connection, and frees what it takes. */
  close(code: number): Promise<void>;
}

/**
 * Interval of the PINGs that keep the connection, and a NAT's mapping, alive. A server that was
 * killed and started anew is noticed by the next one.
 */
const KEEPALIVE_MS = 600;

/** Tunnels of one connection at a time, by default. */
export const MAX_STREAMS = 10_000;

/**
 * Connects to a server.
 *
 * @param address its IP address and port
 * @throws {ConnectionClosedError} when the handshake fails
 * @throws the signal's reason when it aborts first
 */
export async function openConnection(
  address: Authority,
  options: ConnectOptions,
  signal: AbortSignal,
): Promise<OpenConnection> {
  const { tls, alpn, serverName, maxStreams = MAX_STREAMS } = options;
  const hostname = address.hostname.includes(":") ? "::" : "0.0.0.0";
  const endpoint = new QuicEndpoint({ hostname, port: 0 });
  try {
    const connection = await endpoint.connect(address, serverName, {
      tls,
      alpn,
      keepAliveMs: KEEPALIVE_MS,
      maxStreams,
      ...pathOptions(options),
    }, signal);
    return { connection, close: (code) => endpoint.close(code) };
  } catch (error) {
    await endpoint.close();
    throw error;
  }
}
