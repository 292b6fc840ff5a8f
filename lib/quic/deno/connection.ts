// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../../net/authority.ts";
import type { Duplex } from "../../tunnel/duplex.ts";
import { within } from "../../wait.ts";
import type { AgentConnection, AgentStream, PeerStats } from "../agent_connection.ts";
import { type CloseInfo, ConnectionClosedError } from "../errors.ts";
import { live } from "../live.ts";
import { closeInfoOf } from "./errors.ts";
import { PeerHeartbeat } from "./heartbeat.ts";
import { DenoQuicStream, type DenoStreamHost } from "./stream.ts";

/** Longest reason that is sent, in bytes, as of the binding's connections. */
const MAX_REASON_BYTES = 256;

/** Time for what has ended a stream to end the connection too, if it has. */
const CLOSING_MS = 1_000;

let lastNumber = 0;

/** A QUIC connection to a server, by Deno's own QUIC. */
export class DenoQuicConnection implements AgentConnection, DenoStreamHost {
  readonly library = "deno";
  readonly number = ++lastNumber;
  /** It does not tell connection ids. */
  readonly id = undefined;
  readonly alpn: string;
  readonly remoteAddr: Authority;
  readonly closed: Promise<CloseInfo>;
  /**
   * Resolves once the server has opened a unidirectional stream, its control stream: before, it has
   * judged this end's certificate. Rejects with `ConnectionClosedError` when that never happens.
   */
  readonly confirmed: Promise<void>;
  readonly heartbeat = new PeerHeartbeat();
  /** It resets no stream, so the credit of none is lost. */
  readonly cutStreams = 0;
  readonly isDoubted = false;
  readonly isCarried: boolean;
  readonly uniCredit: number;
  /** They are not to be had. */
  readonly peerCertificates = null;
  readonly #native: Deno.QuicConn;
  readonly #bidi: ReadableStreamDefaultReader<Deno.QuicBidirectionalStream>;
  readonly #uni: ReadableStreamDefaultReader<Deno.QuicReceiveStream>;
  readonly #closedSettled = Promise.withResolvers<CloseInfo>();
  readonly #streams = new Set<DenoQuicStream>();
  /** The control stream, until it is asked for. */
  #firstUni: Promise<ReadableStreamReadResult<Deno.QuicReceiveStream>> | undefined;
  #closeInfo: CloseInfo | undefined;

  /** @internal Connections come from `DenoQuicEndpoint`. */
  constructor(
    native: Deno.QuicConn,
    options: {
      remoteAddr: Authority;
      isCarried: boolean;
      idleTimeoutMs: number;
      uniCredit: number;
    },
  ) {
    this.#native = native;
    this.isCarried = options.isCarried;
    this.remoteAddr = options.remoteAddr;
    this.uniCredit = options.uniCredit;
    this.alpn = native.protocol ?? "";
    this.closed = this.#closedSettled.promise;
    live.connections++;
    native.closed.then(
      ({ closeCode: code, reason }) =>
        this.#finish({ by: "peer", application: true, code, reason }),
      (error) => this.#finish(closeInfoOf(error, options.idleTimeoutMs)),
    );
    this.#bidi = native.incomingBidirectionalStreams.getReader();
    this.#uni = native.incomingUnidirectionalStreams.getReader();
    for (const reader of [this.#bidi, this.#uni]) reader.closed.catch(() => {});
    this.#firstUni = this.#uni.read();
    this.confirmed = this.#firstUni.then(async ({ done }) => {
      if (done) throw await this.closedError();
    }, async () => {
      throw await this.closedError();
    });
    this.confirmed.catch(() => {});
  }

  get closeInfo(): CloseInfo | undefined {
    return this.#closeInfo;
  }

  get silentForMs(): number {
    return this.heartbeat.silentForMs;
  }

  get streamCount(): number {
    return this.#streams.size;
  }

  stats(): PeerStats {
    return { streams: this.#streams.size };
  }

  async acceptStream(): Promise<AgentStream> {
    return await this.#accept(this.#bidi.read(), ({ readable, writable }) => {
      const stream = new DenoQuicStream(Number(readable.id), this, readable, writable);
      this.#streams.add(stream);
      live.streams++;
      return stream;
    });
  }

  async acceptUniStream(): Promise<Pick<Duplex, "read">> {
    const next = this.#firstUni ?? this.#uni.read();
    this.#firstUni = undefined;
    return await this.#accept(
      next,
      (readable) => new DenoQuicStream(Number(readable.id), this, readable, undefined),
    );
  }

  async #accept<T>(
    next: Promise<ReadableStreamReadResult<T>>,
    streamOf: (native: T) => DenoQuicStream,
  ): Promise<DenoQuicStream> {
    try {
      const { value } = await next;
      if (value !== undefined && !this.#closeInfo) return streamOf(value);
    } catch {
      // It is gone, and the connection with it.
    }
    throw await this.closedError();
  }

  /** Deno opens it later: what is written waits for that. */
  openUniStream(): Pick<Duplex, "write"> {
    if (this.#closeInfo) throw new ConnectionClosedError(this.#closeInfo);
    const opened = this.#native.createUnidirectionalStream().then(
      (writable) => new DenoQuicStream(Number(writable.id), this, undefined, writable),
    );
    opened.catch(() => {});
    return { write: async (bytes) => await (await opened).write(bytes) };
  }

  async settled(timeoutMs: number): Promise<void> {
    await this.heartbeat.settled(timeoutMs);
  }

  close(code: number, reason = ""): void {
    if (this.#closeInfo) return;
    const words = new TextEncoder().encode(reason).subarray(0, MAX_REASON_BYTES);
    this.#native.close({ closeCode: code, reason: new TextDecoder().decode(words) });
    this.#finish({ by: "local", application: true, code, reason });
  }

  /** @internal What a stream throws of which Deno has told only that it is gone. */
  async closedError(): Promise<Error> {
    try {
      // The connection tells why a moment later than its streams that they are over.
      const gone = () => new Error("the stream is gone");
      return new ConnectionClosedError(await within(CLOSING_MS, this.closed, gone));
    } catch (error) {
      return error as Error;
    }
  }

  /** @internal */
  streamDone(stream: DenoQuicStream): void {
    if (this.#streams.delete(stream)) live.streams--;
  }

  #finish(info: CloseInfo): void {
    if (this.#closeInfo) return;
    this.#closeInfo = info;
    live.connections--;
    this.heartbeat.stop();
    const error = new ConnectionClosedError(info);
    for (const stream of this.#streams) stream.onClosed(error);
    this.#closedSettled.resolve(info);
  }
}
