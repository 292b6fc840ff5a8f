// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../net/authority.ts";
import { QRHT_ALPN } from "../qrht/dialect.ts";
import {
  type AgentConnection,
  CARRIER_HANDSHAKE_MS,
  CarrierRelay,
  ConnectionClosedError,
  DenoQuicEndpoint,
  type OpenDatagramSocket,
  type PathOptions,
  pathOptions,
  QuicEndpoint,
  type QuicLibraryChoice,
  quicLibraryOf,
  type TlsIdentity,
  type TlsSource,
} from "../quic/mod.ts";
import { sleep } from "../wait.ts";

/** How an agent connects to a server. */
export interface ConnectOptions extends PathOptions {
  /** Name that the server's certificate must have; sent as SNI. */
  readonly serverName: string;
  /** Asked at each connect. */
  readonly tls: TlsIdentity | TlsSource;
  readonly alpn: readonly string[];
  /** What makes the connections. Deno's own QUIC speaks `qrht/1` only. @default {"auto"} */
  readonly quicLibrary?: QuicLibraryChoice;
  /** Tunnels of one connection at a time. @default {10000} */
  readonly maxStreams?: number;
  /** Time that a handshake through a carrier may take at most. @default {CARRIER_HANDSHAKE_MS} */
  readonly carrierHandshakeTimeoutMs?: number;
}

/** A connection to a server, and what it takes. */
export interface OpenConnection<Connection extends AgentConnection = AgentConnection> {
  readonly connection: Connection;
  /** Closes the connection, and frees what it takes. @param reason shown to the server */
  close(code: number, reason?: string): Promise<void>;
}

/**
 * Interval of the PINGs that keep the connection, and a NAT's mapping, alive. A server that was
 * killed and started anew is noticed by the next one.
 */
const KEEPALIVE_MS = 600;

/** Time for the last packet of Deno's QUIC to get to the relay. */
const LEAVE_MS = 100;

/** Tunnels of one connection at a time, by default. */
export const MAX_STREAMS = 10_000;

/** Those of Deno's own QUIC, by the address that they are bound to. */
const denoEndpoints = new Map<string, DenoQuicEndpoint>();

/**
 * Connects to a server.
 *
 * @param address its IP address and port
 * @param carrier opens what takes the place of UDP
 * @throws {ConnectionClosedError} when the handshake fails
 * @throws the signal's reason when it aborts first
 */
export async function openConnection(
  address: Authority,
  options: ConnectOptions,
  signal: AbortSignal,
  carrier?: OpenDatagramSocket,
): Promise<OpenConnection> {
  const { tls, alpn, serverName, maxStreams = MAX_STREAMS, quicLibrary = "auto" } = options;
  const hostname = address.hostname.includes(":") ? "::" : "0.0.0.0";
  const { carrierHandshakeTimeoutMs = CARRIER_HANDSHAKE_MS } = options;
  const transport = {
    tls,
    alpn,
    keepAliveMs: KEEPALIVE_MS,
    maxStreams,
    carrierHandshakeTimeoutMs,
    ...pathOptions(options),
  };
  if (quicLibraryOf(quicLibrary) === "deno") {
    // It cannot reset streams, and in the raw dialect nothing else tells that one was cut off.
    const options = { ...transport, alpn: [QRHT_ALPN] };
    const connect = (bind: string, relay?: Authority) =>
      denoConnection(
        bind,
        (endpoint) => endpoint.connect(address, serverName, options, signal, relay),
      );
    return carrier ? await openRelayed(carrier, address, connect) : await connect(hostname);
  }
  const endpoint = new QuicEndpoint(carrier ? { carrier } : { hostname, port: 0 });
  try {
    const connection = await endpoint.connect(address, serverName, transport, signal);
    return { connection, close: (code, reason) => endpoint.close(code, reason) };
  } catch (error) {
    await endpoint.close();
    throw error;
  }
}

/** @param bind the address that the endpoint is bound to */
async function denoConnection(
  bind: string,
  connect: (endpoint: DenoQuicEndpoint) => Promise<AgentConnection>,
): Promise<OpenConnection> {
  const endpoint = denoEndpoints.get(bind) ?? new DenoQuicEndpoint(bind);
  denoEndpoints.set(bind, endpoint);
  try {
    const connection = await connect(endpoint);
    return {
      connection,
      close: (code, reason) => Promise.resolve(connection.close(code, reason)),
    };
  } catch (error) {
    if (isOfEndpoint(error)) denoEndpoints.delete(bind);
    throw error;
  }
}

/** Connects through a carrier, which is led to by a relay. */
async function openRelayed(
  carrier: OpenDatagramSocket,
  address: Authority,
  connect: (bind: string, relay: Authority) => Promise<OpenConnection>,
): Promise<OpenConnection> {
  const relay = new CarrierRelay(carrier, address);
  const { hostname, port } = relay.addr;
  try {
    const { connection, close } = await connect(hostname, { hostname, port });
    void relay.lost.then(() => connection.close(0, "the carrier is gone"));
    return {
      connection,
      async close(code, reason) {
        await close(code, reason);
        await sleep(LEAVE_MS);
        await relay[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await relay[Symbol.asyncDispose]();
    throw error;
  }
}

/** Whether the endpoint itself has ended, as when its socket fails, so that another one is needed. */
function isOfEndpoint(error: unknown): boolean {
  return error instanceof ConnectionClosedError && error.info.by === "local" &&
    error.info.reason.includes("endpoint");
}
