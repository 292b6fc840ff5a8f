// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import type { Authority } from "../../lib/net/authority.ts";
import {
  type CloseInfo,
  type ListenOptions,
  live,
  type QuicConnection,
  QuicEndpoint,
  type TransportOptions,
} from "../../lib/quic/mod.ts";
import "./native_teardown.ts";
import { TestCa } from "./tls.ts";

/** The ALPN name of the wire that the tests speak. */
export const ALPN = ["quic-echo-example"];

const ca = await TestCa.create();

/** Identities of one CA that both ends accept. */
export const serverTls = await ca.server();
export const clientTls = await ca.client();

/** An endpoint on loopback that takes connections. */
export interface Listening extends AsyncDisposable {
  readonly endpoint: QuicEndpoint;
  readonly address: Authority;
  /** The handshakes that failed. */
  readonly failures: CloseInfo[];
}

export function listen(options: Partial<ListenOptions> = {}): Listening {
  const failures: CloseInfo[] = [];
  const endpoint = new QuicEndpoint({
    hostname: "127.0.0.1",
    port: 0,
    listen: {
      tls: serverTls,
      alpn: ALPN,
      handshakeFailed: (info) => failures.push(info),
      ...options,
    },
  });
  return {
    endpoint,
    address: { hostname: "127.0.0.1", port: endpoint.addr.port },
    failures,
    [Symbol.asyncDispose]: () => endpoint.close(),
  };
}

/** Two ends on loopback, connected; `via` lets a relay sit between. Everything ends with the disposal. */
export interface QuicPair extends AsyncDisposable {
  readonly serverEndpoint: QuicEndpoint;
  readonly clientEndpoint: QuicEndpoint;
  readonly server: QuicConnection;
  readonly client: QuicConnection;
}

/** @param options.via maps the server's address to the one that the client connects to */
export async function connectPair(options: {
  server?: Partial<ListenOptions>;
  client?: Partial<TransportOptions>;
  via?: (server: Authority) => Authority | Promise<Authority>;
} = {}): Promise<QuicPair> {
  const { endpoint: serverEndpoint, address } = listen(options.server);
  const clientEndpoint = new QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
  const close = async () => {
    await clientEndpoint.close();
    await serverEndpoint.close();
  };
  try {
    const peer = await options.via?.(address) ?? address;
    const [server, client] = await Promise.all([
      serverEndpoint.accept(),
      clientEndpoint.connect(peer, "quic-tunnel-server", {
        tls: clientTls,
        alpn: ALPN,
        ...options.client,
      }),
    ]);
    return { serverEndpoint, clientEndpoint, server, client, [Symbol.asyncDispose]: close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** What a client connects to through a carrier, wherever that leads. */
export const CARRIED_PEER: Authority = { hostname: "192.0.2.1", port: 443 };

/** How long handshakes may take, over UDP and through a carrier. */
export type HandshakeTimes = Pick<
  TransportOptions,
  "handshakeTimeoutMs" | "carrierHandshakeTimeoutMs"
>;

/** Connects an endpoint whose carrier leads to another one with it. */
export async function connectCarried(
  clientEndpoint: QuicEndpoint,
  serverEndpoint: QuicEndpoint,
  times: HandshakeTimes = {},
): Promise<Pick<QuicPair, "client" | "server">> {
  const [client, server] = await Promise.all([
    clientEndpoint.connect(CARRIED_PEER, "quic-tunnel-server", {
      tls: clientTls,
      alpn: ALPN,
      keepAliveMs: 600,
      ...times,
    }),
    serverEndpoint.accept(),
  ]);
  return { client, server };
}

/** Asserts that no connection or stream of this process is left over. */
export function assertNothingLive(): void {
  assertEquals(live, { connections: 0, streams: 0, uniStreams: 0 });
}
