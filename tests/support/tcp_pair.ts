// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import type { Duplex } from "../../lib/tunnel/duplex.ts";
import { connectTcp } from "../../lib/net/tcp_reset.ts";
import { eventually } from "./eventually.ts";

/** Two ends of one TCP connection on loopback; whoever asked for them closes both. */
export async function tcpPair(): Promise<[Deno.TcpConn, Deno.TcpConn]> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  return await Promise.all([connectTcp({ hostname: "127.0.0.1", port }), listener.accept()]);
}

/** The same, where one end can reset the connection. */
export async function resettableTcpPair(): Promise<[Deno.TcpConn, ResettableTcp]> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  return await Promise.all([listener.accept(), ResettableTcp.connect(port)]);
}

/**
 * A TCP connection whose `abort` is seen as ECONNRESET by the other end.
 *
 * `Deno.TcpConn` cannot do that: it has no linger option, and its `close()` sends FIN before anything else, so that the
 * other end reads an orderly end even where bytes are left unread.
 */
export class ResettableTcp implements Duplex {
  readonly #socket: Socket;
  readonly #closed: Promise<unknown>;
  #error: Error | undefined;

  /** @param socket made with `allowHalfOpen` */
  constructor(socket: Socket) {
    this.#socket = socket;
    this.#closed = new Promise((resolve) => socket.once("close", resolve));
    socket.on("error", (error) => this.#error = error);
  }

  static async connect(port: number): Promise<ResettableTcp> {
    const socket = connect({ host: "127.0.0.1", port, allowHalfOpen: true, noDelay: true });
    await once(socket, "connect");
    return new ResettableTcp(socket);
  }

  /** Its own port. */
  get localPort(): number {
    return this.#socket.localPort ?? 0;
  }

  async read(buffer: Uint8Array): Promise<number | null> {
    const socket = this.#socket;
    for (;;) {
      if (this.#error) throw this.#error;
      const size = Math.min(buffer.length, socket.readableLength);
      const chunk: Uint8Array | null = socket.read(size || undefined);
      if (chunk) {
        buffer.set(chunk);
        return chunk.length;
      }
      if (socket.readableEnded) return null;
      if (socket.destroyed) throw new Error("the connection is closed");
      await this.#next(["readable", "end", "close", "error"]);
    }
  }

  async write(bytes: Uint8Array): Promise<number> {
    if (this.#socket.destroyed) throw this.#error ?? new Error("the connection is closed");
    const written = Promise.withResolvers<void>();
    this.#socket.write(bytes, (error) => error ? written.reject(error) : written.resolve());
    await written.promise;
    return bytes.length;
  }

  async closeWrite(): Promise<void> {
    await new Promise<void>((resolve) => this.#socket.end(resolve));
  }

  abort(): void {
    this.#socket.resetAndDestroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.destroy();
    await this.#closed;
  }

  #next(events: readonly string[]): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        for (const event of events) this.#socket.off(event, done);
        resolve();
      };
      for (const event of events) this.#socket.once(event, done);
    });
  }
}

/** A target whose connections can be reset. */
export class ResettableTarget implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets: Socket[] = [];
  readonly #accepted: ResettableTcp[] = [];

  private constructor(server: Server) {
    this.#server = server;
    server.on("connection", (socket) => this.#sockets.push(socket));
  }

  static async listen(): Promise<ResettableTarget> {
    const server = createServer({ allowHalfOpen: true, noDelay: true });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return new ResettableTarget(server);
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Its address, as a request has it. */
  get authority(): string {
    return `127.0.0.1:${this.port}`;
  }

  async accept(): Promise<ResettableTcp> {
    const socket = await eventually("a connection", () => this.#sockets.shift());
    const accepted = new ResettableTcp(socket);
    this.#accepted.push(accepted);
    return accepted;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    const closed = once(this.#server, "close");
    for (const socket of this.#sockets) socket.destroy();
    for (const accepted of this.#accepted) await accepted[Symbol.asyncDispose]();
    await closed;
  }
}
