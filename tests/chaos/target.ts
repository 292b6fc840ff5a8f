// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The targets behind the agents, which do what each request asks and check every byte of it. */
import { delay } from "@std/async/delay";
import { messageOf } from "../../lib/errors.ts";
import { resetTcpAtExit } from "../../lib/net/tcp_reset.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import type { Ledger } from "./ledger.ts";
import {
  Ask,
  decodeRequest,
  GREETING,
  type Request,
  REQUEST_BYTES,
  Wire,
  WrongBytesError,
} from "./wire.ts";

/** Silence, but for pauses that are meant, after which a connection from an agent counts as forgotten. */
const FORGOTTEN_AFTER_MS = 45_000;

/** One connection from an agent. */
class Visit {
  readonly #connection: Deno.TcpConn;
  #lastStepAt = performance.now();

  constructor(connection: Deno.TcpConn) {
    this.#connection = connection;
  }

  get silentForMs(): number {
    return performance.now() - this.#lastStepAt;
  }

  close(): void {
    try {
      resetTcpAtExit(this.#connection, false);
      this.#connection.close();
    } catch {
      // It is closed.
    }
  }

  async serve(speaksFirst: boolean, ledger: Ledger): Promise<void> {
    const wire = new Wire(tcpDuplex(this.#connection), {
      progress: (bytes) => {
        this.#lastStepAt = performance.now();
        ledger.bytesAtTargets += bytes;
      },
      pause: async (ms) => {
        this.#lastStepAt = performance.now() + ms;
        await delay(ms);
      },
    });
    if (speaksFirst) await wire.send(GREETING);
    for (;;) {
      const bytes = await wire.receiveUnlessEnded(REQUEST_BYTES);
      if (!bytes) break;
      const request = decodeRequest(bytes);
      ledger.arrived(request);
      await this.#answer(request, wire);
      if (request.asks & Ask.TargetEnds) {
        await wire.end();
        await wire.receiveTail(request);
        await wire.receiveEnd();
        ledger.finished(request.id);
        return;
      }
    }
    await wire.end();
  }

  async #answer(request: Request, wire: Wire): Promise<void> {
    const { asks, pauseMs } = request;
    const upload = async () => {
      const slow = { everyBytes: 128 << 10, pauseMs: 200, stopMs: pauseMs };
      await wire.receiveUpload(request, asks & Ask.ReadSlowly ? slow : undefined);
      if (asks & Ask.ClientEnds) await wire.receiveEnd();
    };
    if (asks & Ask.Duplex) {
      const uploaded = upload();
      await Promise.all([uploaded, wire.sendReply(request, uploaded)]);
    } else {
      await upload();
      if (pauseMs > 0 && !(asks & Ask.ReadSlowly)) {
        this.#lastStepAt = performance.now() + pauseMs;
        await delay(pauseMs);
      }
      await wire.sendReply(request, Promise.resolve());
    }
  }
}

/** A TCP port that answers requests. */
export class Target implements Disposable {
  readonly #listener: Deno.TcpListener;
  readonly #visits = new Set<Visit>();

  /** @param speaksFirst whether it greets whoever connects */
  constructor(hostname: string, readonly speaksFirst: boolean, ledger: Ledger) {
    this.#listener = Deno.listen({ hostname, port: 0 });
    void this.#accept(ledger);
  }

  get address(): string {
    const { hostname, port } = this.#listener.addr as Deno.NetAddr;
    return `${hostname}:${port}`;
  }

  /** Connections that are open. */
  get size(): number {
    return this.#visits.size;
  }

  /** Connections that nobody seems to know of any more. */
  forgotten(): number {
    return Array.from(this.#visits).filter(({ silentForMs }) => silentForMs > FORGOTTEN_AFTER_MS)
      .length;
  }

  async #accept(ledger: Ledger): Promise<void> {
    for await (const connection of this.#listener) {
      const visit = new Visit(connection);
      this.#visits.add(visit);
      visit.serve(this.speaksFirst, ledger)
        .catch((error) => {
          // Any other error is a connection that has ended early, which its client is to see.
          if (error instanceof WrongBytesError) ledger.violated(`target: ${messageOf(error)}`);
        })
        .finally(() => {
          visit.close();
          this.#visits.delete(visit);
        });
    }
  }

  [Symbol.dispose](): void {
    this.#listener.close();
    for (const visit of this.#visits) visit.close();
  }
}
