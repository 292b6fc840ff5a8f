// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What a carrier is dialled through: servers of CONNECT-UDP, and HTTP proxies, that do as a test says. */

import { type Carrier, CarrierSocket } from "../../lib/connect_udp/carrier_socket.ts";
import { UpgradeRequestParser } from "../../lib/connect_udp/upgrade_request.ts";
import { prepend, writeAll } from "../../lib/tunnel/duplex.ts";
import { serverTls } from "./quic.ts";
import { text, utf8 } from "./network.ts";

type Serve<C extends Deno.Conn> = (connection: C) => Promise<unknown>;

/** Serves each connection in the same way, and closes it; one that fails is its own concern. */
export class ScriptedListener<C extends Deno.Conn = Deno.Conn> implements AsyncDisposable {
  readonly port: number;
  /** Of all connections so far. */
  readonly connections: C[] = [];
  /** Connections that are served, because their clients are gone. */
  ended = 0;
  readonly #listener: Deno.Listener<C>;
  readonly #serving: Promise<unknown>[] = [];

  constructor(listener: Deno.Listener<C>, serve: Serve<C>) {
    this.#listener = listener;
    this.port = (listener.addr as Deno.NetAddr).port;
    this.#serving.push(this.#accept(serve));
  }

  async #accept(serve: Serve<C>): Promise<void> {
    for (;;) {
      const connection = await this.#listener.accept().catch(() => undefined);
      if (!connection) return;
      this.connections.push(connection);
      this.#serving.push(
        serve(connection).catch(() => {}).finally(() => {
          this.ended++;
          close(connection);
        }),
      );
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    close(this.#listener);
    for (const connection of this.connections) close(connection);
    for (const served of this.#serving) await served;
  }
}

export function close(closer: { close(): void }): void {
  try {
    closer.close();
  } catch {
    // It is closed already.
  }
}

export function tcpListener(serve: Serve<Deno.TcpConn>): ScriptedListener<Deno.TcpConn> {
  return new ScriptedListener(Deno.listen({ hostname: "127.0.0.1", port: 0 }), serve);
}

export function tlsListener(
  serve: Serve<Deno.TlsConn>,
  { cert, key } = serverTls,
): ScriptedListener<Deno.TlsConn> {
  const options = { hostname: "127.0.0.1", port: 0, alpnProtocols: ["http/1.1"] };
  const listener = Deno.listenTls({ ...options, cert: text.decode(cert), key: text.decode(key) });
  return new ScriptedListener(listener, serve);
}

/** Upgrades each connection, hands it on, and keeps it until it is closed. */
export function carrierListener(
  use: (carrier: Carrier) => { readonly closed: Promise<unknown> },
  identity?: typeof serverTls,
): ScriptedListener<Deno.TlsConn> {
  return tlsListener(async (connection) => {
    const parser = new UpgradeRequestParser();
    const buffer = new Uint8Array(1024);
    for (;;) {
      const n = await connection.read(buffer);
      const result = parser.push(buffer.subarray(0, n!));
      if (result.kind === "incomplete") continue;
      await writeAll(connection, result.answer);
      if (result.kind === "answer") return connection.closeWrite();
      const duplex = prepend(result.rest, {
        read: (buffer) => connection.read(buffer),
        write: (bytes) => connection.write(bytes),
        closeWrite: () => connection.closeWrite(),
        abort: () => close(connection),
        // deno-lint-ignore require-await
        [Symbol.asyncDispose]: async () => close(connection),
      });
      const { localAddr, remoteAddr } = connection as {
        localAddr: Deno.NetAddr;
        remoteAddr: Deno.NetAddr;
      };
      return await use({ duplex, localAddr, remoteAddr, maxDatagramBytes: 16_376 }).closed;
    }
  }, identity);
}

/** Takes carriers, and forwards no datagram. */
export function carrierToNowhere(identity?: typeof serverTls): ScriptedListener<Deno.TlsConn> {
  const ignored = () => {};
  const events = { datagram: ignored, writable: ignored, lost: ignored };
  return carrierListener((carrier) => new CarrierSocket(carrier, events), identity);
}

/** Reads the head of a request, sends an answer, and waits for the end. */
export const answering = (answer: string | Uint8Array) => async (connection: Deno.Conn) => {
  const head = await readHead(connection);
  await writeAll(connection, typeof answer === "string" ? utf8.encode(answer) : answer);
  await connection.read(new Uint8Array(1));
  return head;
};

export async function readHead(connection: Deno.Conn): Promise<string> {
  const buffer = new Uint8Array(4096);
  for (let head = "";;) {
    const n = await connection.read(buffer);
    if (n === null) return head;
    head += text.decode(buffer.subarray(0, n));
    if (head.endsWith("\r\n\r\n")) return head;
  }
}

/** An HTTP proxy that connects each client to one port, whatever it asks for; the heads it gets. */
export function proxyTo(port: number, heads: string[]): ScriptedListener<Deno.TcpConn> {
  return tcpListener(async (client) => {
    heads.push(await readHead(client));
    const server = await Deno.connect({ hostname: "127.0.0.1", port });
    try {
      await writeAll(client, utf8.encode("HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n"));
      const copy = async (from: Deno.Conn, to: Deno.Conn) => {
        const buffer = new Uint8Array(64 << 10);
        for (let n; (n = await from.read(buffer)) !== null;) {
          await writeAll(to, buffer.subarray(0, n));
        }
        await to.closeWrite();
      };
      await Promise.all([
        copy(client, server).finally(() => close(server)),
        copy(server, client).finally(() => close(client)),
      ]);
    } finally {
      close(server);
    }
  });
}
