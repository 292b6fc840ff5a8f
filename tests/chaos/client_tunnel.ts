// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { deadline } from "@std/async/deadline";
import { delay } from "@std/async/delay";
import { equals } from "@std/bytes/equals";
import type { Duplex } from "../../lib/tunnel/duplex.ts";
import { tcpDuplex } from "../../lib/tunnel/tcp_duplex.ts";
import { ResettableTcp } from "../support/tcp_pair.ts";
import type { Ledger } from "./ledger.ts";
import { CutError, GREETING, type Request, Wire, WrongBytesError } from "./wire.ts";

/** How a client gets to a target. */
export interface Route {
  readonly hostname: string;
  readonly port: number;
  /** What to ask for by CONNECT; undefined where the agent has one upstream. */
  readonly target: string | undefined;
  /** Whether the target speaks first. */
  readonly isGreeted: boolean;
}

/** An answer to CONNECT that is not 200. */
export class RefusedError extends Error {
  override readonly name = "RefusedError";
  constructor(readonly status: number, head: string) {
    super(head.split("\r\n", 1)[0]);
  }
}

/** Time without a byte after which a tunnel counts as stuck; pauses that are meant come on top. */
const STUCK_AFTER_MS = 30_000;

const OK = "HTTP/1.1 200 OK\r\n\r\n";
const encoder = new TextEncoder();

/** A client's end of one tunnel. */
export class ClientTunnel {
  readonly startedAt = performance.now();
  readonly id: number;
  readonly #ledger: Ledger;
  #duplex: Duplex | undefined;
  #wire: Wire | undefined;
  #sequence = 0;
  #client = "";
  #isStuckAt = performance.now() + STUCK_AFTER_MS;
  /** Time from the connection to the first byte of the target's. */
  firstByteMs: number | undefined;

  constructor(readonly route: Route, ledger: Ledger) {
    this.#ledger = ledger;
    this.id = ledger.begin();
  }

  /** Its address as the server sees it; empty before it is connected. */
  get client(): string {
    return this.#client;
  }

  get isStuck(): boolean {
    return performance.now() > this.#isStuckAt;
  }

  get wire(): Wire {
    if (!this.#wire) throw new TypeError("not connected");
    return this.#wire;
  }

  /** Connects to the server, by TCP only. */
  async dial(): Promise<void> {
    const { hostname, port } = this.route;
    const connection = await Deno.connect({ hostname, port });
    const { hostname: host, port: from } = connection.localAddr as Deno.NetAddr;
    this.#use(tcpDuplex(connection), `${host}:${from}`);
  }

  /** The same, in a way that it can be reset. */
  async dialResettable(): Promise<void> {
    const tcp = await ResettableTcp.connect(this.route.port);
    this.#use(tcp, `127.0.0.1:${tcp.localPort}`);
  }

  #use(duplex: Duplex, client: string): void {
    this.#client = client;
    this.#duplex = duplex;
    this.#step();
    this.#wire = new Wire(duplex, {
      progress: (bytes) => {
        this.#ledger.bytesAtClients += bytes;
        this.#step();
      },
      pause: (ms) => this.pause(ms),
    });
  }

  #step(): void {
    this.#isStuckAt = performance.now() + STUCK_AFTER_MS;
  }

  /** A pause that is meant. */
  async pause(ms: number): Promise<void> {
    this.allow(ms);
    await delay(ms);
  }

  /** Silence of the other end's that is meant. */
  allow(ms: number): void {
    this.#isStuckAt = performance.now() + ms + STUCK_AFTER_MS;
  }

  /** The head that asks for the target. */
  connectHead(target = this.route.target): Uint8Array<ArrayBuffer> {
    return encoder.encode(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`);
  }

  /** Takes what comes before the target's answers. @throws {RefusedError} unless it is connected */
  async established(): Promise<void> {
    if (this.route.target !== undefined) {
      const head = await this.wire.receiveHead();
      const [, status] = /^HTTP\/1\.1 (\d{3}) /.exec(head) ?? [];
      if (status === undefined) {
        throw new WrongBytesError(`not a response: ${JSON.stringify(head)}`);
      }
      if (status !== "200") throw new RefusedError(Number(status), head);
      if (head !== OK) throw new WrongBytesError(`not the 200: ${JSON.stringify(head)}`);
    }
    if (this.route.isGreeted) {
      const greeting = await this.wire.receive(GREETING.length);
      if (!equals(greeting, GREETING)) {
        throw new WrongBytesError(`not the greeting: ${new TextDecoder().decode(greeting)}`);
      }
    }
    this.firstByteMs = performance.now() - this.startedAt;
  }

  /** Connects all the way to the target. */
  async open(dial: () => Promise<void> = () => this.dial()): Promise<void> {
    await dial();
    if (this.route.target !== undefined) await this.wire.send(this.connectHead());
    if (this.route.target !== undefined || this.route.isGreeted) await this.established();
  }

  /** The next request, with what is not said being zero. */
  request(asked: Partial<Omit<Request, "id" | "sequence">>): Request {
    return {
      asks: 0,
      uploadBytes: 0,
      downloadBytes: 0,
      tailBytes: 0,
      pauseMs: 0,
      ...asked,
      id: this.id,
      sequence: this.#sequence++,
    };
  }

  /** Ends this direction, and sees to it that nothing but the end of the other one follows. */
  async finish(): Promise<void> {
    await this.wire.end();
    await this.wire.receiveEnd();
  }

  /** Waits until the target has got everything, for targets that cannot say so any more. */
  async received(): Promise<void> {
    await deadline(this.#ledger.whenFinished(this.id), STUCK_AFTER_MS / 2)
      .catch(() => Promise.reject(new CutError("the target has not got all of it")));
  }

  /** Drops the connection; resets it if it was dialled so. */
  abort(): void {
    this.#duplex?.abort();
  }
}
