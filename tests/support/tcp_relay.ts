// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert } from "@std/assert";
import type { Authority } from "../../lib/net/authority.ts";
import { connectTcp, resetTcp } from "../../lib/net/tcp_reset.ts";
import { writeAll } from "../../lib/tunnel/duplex.ts";
import { sleep } from "../../lib/wait.ts";
import { canResetTcp } from "./can_reset_tcp.ts";

/** A network between clients and a TCP server, on loopback, that can delay, stall and cut connections. */
export class TcpRelay implements AsyncDisposable {
  /** Connections of clients so far. */
  accepted = 0;
  /** Whether the server is left out: connections are accepted, and nothing comes of them. */
  isSilent = false;
  readonly #server: Authority;
  readonly #delayMs: number;
  readonly addr: Authority;
  #listener: Deno.TcpListener;
  readonly #open = new Set<Deno.TcpConn>();
  readonly #tasks = new Set<Promise<void>>();
  #stalled: PromiseWithResolvers<void> | undefined;

  /**
   * @param options.port where it listens, on 127.0.0.1. @default {0} any
   * @param options.delayMs how long bytes take either way. @default {0}
   */
  constructor(server: Authority, { port = 0, delayMs = 0 } = {}) {
    this.#server = server;
    this.#delayMs = delayMs;
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port });
    const { addr } = this.#listener;
    this.addr = { hostname: addr.hostname, port: addr.port };
    this.#run(this.#accept());
  }

  /** Nothing gets through from now on, of connections that are made meanwhile either. */
  stall(): void {
    this.#stalled ??= Promise.withResolvers();
  }

  /** Everything that was sent meanwhile arrives. */
  resume(): void {
    this.#stalled?.resolve();
    this.#stalled = undefined;
  }

  /** Ends all connections, whatever is on its way. */
  cut(): void {
    for (const connection of this.#open) this.#close(connection);
  }

  /** The same by RST. @throws {AssertionError} where connections cannot be reset */
  reset(): void {
    assert(canResetTcp, "the C library is not there, or may not be used");
    for (const connection of this.#open) {
      resetTcp(connection);
      this.#close(connection);
    }
  }

  /** Ends all connections, and refuses further ones. */
  closePort(): void {
    this.#listener.close();
    this.cut();
  }

  /** Takes connections again. */
  openPort(): void {
    this.#listener = Deno.listen(this.addr);
    this.#run(this.#accept());
  }

  async #accept(): Promise<void> {
    for await (const client of this.#listener) {
      this.accepted++;
      this.#open.add(client);
      if (!this.isSilent) this.#run(this.#relay(client));
    }
  }

  async #relay(client: Deno.TcpConn): Promise<void> {
    await this.#stalled?.promise;
    const server = await connectTcp(this.#server);
    this.#open.add(server);
    for (const connection of [client, server]) connection.setNoDelay(true);
    const copy = async (from: Deno.TcpConn, to: Deno.TcpConn) => {
      const buffer = new Uint8Array(64 << 10);
      try {
        for (let n; (n = await from.read(buffer)) !== null;) {
          await this.#stalled?.promise;
          if (this.#delayMs > 0) await sleep(this.#delayMs);
          await writeAll(to, buffer.subarray(0, n));
        }
        await to.closeWrite();
      } catch {
        // Either end is gone, and then the other one is to go, too.
        for (const connection of [from, to]) this.#close(connection);
      }
    };
    await Promise.all([copy(client, server), copy(server, client)]);
    for (const connection of [client, server]) this.#close(connection);
  }

  #close(connection: Deno.TcpConn): void {
    if (this.#open.delete(connection)) connection.close();
  }

  #run(task: Promise<void>): void {
    const ended = task.catch(() => {}).finally(() => this.#tasks.delete(ended));
    this.#tasks.add(ended);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    this.resume();
    for (const connection of this.#open) this.#close(connection);
    await Promise.all(this.#tasks);
  }
}
