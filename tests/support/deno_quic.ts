// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Connections of Deno's own QUIC to servers of the binding. */
import type { DenoQuicConnection } from "../../lib/quic/deno/connection.ts";
import type { DenoQuicStream } from "../../lib/quic/deno/stream.ts";
import {
  type AgentStream,
  DenoQuicEndpoint,
  type ListenOptions,
  type QuicConnection,
  type QuicStream,
  type TransportOptions,
} from "../../lib/quic/mod.ts";
import { soon } from "./network.ts";
import { clientTls, listen, type Listening } from "./quic.ts";

export const QRHT = ["qrht/1"];

export interface DenoPair extends AsyncDisposable {
  readonly listening: Listening;
  readonly endpoint: DenoQuicEndpoint;
  readonly server: QuicConnection;
  readonly client: DenoQuicConnection;
}

/** Options of a client that connects to a server of these tests. */
export const clientOptions = { tls: clientTls, alpn: QRHT, keepAliveMs: 600 } as const;

/** Both ends, connected: the server has opened its first unidirectional stream. */
export async function connectDenoPair(
  options: { server?: Partial<ListenOptions>; client?: Partial<TransportOptions> } = {},
): Promise<DenoPair> {
  const listening = listen({ alpn: QRHT, ...options.server });
  const endpoint = new DenoQuicEndpoint("127.0.0.1");
  const close = async () => {
    await endpoint.close();
    await listening[Symbol.asyncDispose]();
  };
  try {
    const [server, client] = await Promise.all([
      acceptDeno(listening),
      endpoint.connect(listening.address, "quic-tunnel-server", {
        ...clientOptions,
        ...options.client,
      }),
    ]);
    return { listening, endpoint, server, client, [Symbol.asyncDispose]: close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Takes a connection, as a server that speaks `qrht/1` does. */
export async function acceptDeno({ endpoint }: Pick<Listening, "endpoint">) {
  const server = await endpoint.accept();
  await server.openUniStream()!.write(new Uint8Array(1));
  return server;
}

/** Opens a stream from the server; its first byte has been read. */
export async function openDenoStream(
  { server, client }: Pick<DenoPair, "server" | "client">,
): Promise<{ readonly there: QuicStream; readonly here: AgentStream & DenoQuicStream }> {
  const there = server.openStream();
  await there.write(new Uint8Array(1));
  const here = await soon("the stream", client.acceptStream());
  await soon("its first byte", here.read(new Uint8Array(1)));
  return { there, here: here as DenoQuicStream };
}
