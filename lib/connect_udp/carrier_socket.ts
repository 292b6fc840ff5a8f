// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { setImmediate } from "node:timers";
import type { Authority } from "../net/authority.ts";
import type { DatagramEvents, DatagramSocket } from "../quic/mod.ts";
import type { Duplex } from "../tunnel/duplex.ts";
import { ReadBuffer } from "../tunnel/read_buffer.ts";
import { within } from "../wait.ts";
import { CapsuleParser, type SkippedCapsules } from "./capsule_parser.ts";
import { CapsuleWriter } from "./capsule_writer.ts";

/** A connection that carries capsules, both ways, from its next byte on. */
export interface Carrier {
  readonly duplex: Duplex;
  readonly localAddr: Authority;
  readonly remoteAddr: Authority;
  /** Largest datagram that the peer carries whole; undefined if it has not told. */
  readonly maxDatagramBytes: number | undefined;
}

/** Bytes of datagrams that wait for the carrier. */
const MAX_WAITING_BYTES = 256 << 10;

/** How long the last datagrams may take to leave. */
const CLOSE_MS = 500;

/**
 * How long work may take before others have their turn: reads do not wait while a peer sends without
 * end.
 */
const MAX_BUSY_MS = 5;

const ENDED = "the peer has ended the carrier";

/** The peer has ended a carrier. */
export class CarrierEndedError extends Error {
  override readonly name = "CarrierEndedError";
}

/** Why reading has failed, without what the TLS library says to programmers about a missing close. */
export function readFailureOf(error: unknown): unknown {
  const isCut = error instanceof Deno.errors.UnexpectedEof;
  return isCut ? new CarrierEndedError(`${ENDED} without close_notify`, { cause: error }) : error;
}

/**
 * Sends and receives datagrams as capsules (RFC 9297) on a connection that was upgraded to
 * CONNECT-UDP (RFC 9298). Both ends have one. Takes the connection over.
 */
export class CarrierSocket implements DatagramSocket {
  readonly isCarrier = true;
  readonly addr: Authority;
  /** Resolves when it has ended, with the cause unless it was closed here. Never rejects. */
  readonly closed: Promise<unknown>;
  readonly #ended = Promise.withResolvers<unknown>();
  readonly #duplex: Duplex;
  readonly #events: Pick<DatagramEvents, "writable" | "lost">;
  readonly #writer: CapsuleWriter;
  readonly #parser: CapsuleParser;
  readonly #maxDatagramBytes: number | undefined;
  readonly #received: ((bytes: number) => void) | undefined;
  readonly #reading: Promise<void>;
  #hasEnded = false;

  /**
   * @param from where datagrams come from, for who gets them
   * @param received is told how many bytes were taken in; throws to end the carrier
   */
  constructor(
    { duplex, localAddr, remoteAddr, maxDatagramBytes }: Carrier,
    events: Pick<DatagramEvents, "datagram" | "writable" | "lost">,
    from = remoteAddr,
    received?: (bytes: number) => void,
  ) {
    this.addr = localAddr;
    this.closed = this.#ended.promise;
    this.#duplex = duplex;
    this.#events = events;
    this.#maxDatagramBytes = maxDatagramBytes;
    this.#received = received;
    this.#writer = new CapsuleWriter(duplex, {
      writable: () => this.#hasEnded || events.writable(),
      failed: (error) => this.#fail(error),
    }, MAX_WAITING_BYTES);
    this.#parser = new CapsuleParser((payload) => this.#hasEnded || events.datagram(payload, from));
    this.#reading = this.#read();
  }

  /** Datagrams so far. */
  get datagrams(): { readonly sent: number; readonly received: number } {
    return { sent: this.#writer.datagrams, received: this.#parser.datagrams };
  }

  /** Capsules that came, and were not for QUIC. */
  get skipped(): Readonly<SkippedCapsules> {
    return this.#parser.skipped;
  }

  maxDatagramBytes(): number | undefined {
    return this.#maxDatagramBytes;
  }

  reserve(bytes: number, mustLeave?: boolean): Uint8Array | undefined {
    return this.#hasEnded ? undefined : this.#writer.reserve(bytes, mustLeave);
  }

  commit(bytes: number): void {
    this.#writer.commit(bytes);
  }

  flush(): void {
    if (!this.#hasEnded) this.#writer.flush();
  }

  /** A carrier reports all of its errors at once. */
  noticeErrors(): void {}

  /** Ends the carrier after what was sent, for which it waits a short time. */
  async close(): Promise<void> {
    if (!this.#hasEnded) {
      this.#hasEnded = true;
      this.#ended.resolve(undefined);
      try {
        const late = () => new Error(`not sent within ${CLOSE_MS} ms`);
        const end = async () => {
          await this.#writer.drained();
          await this.#duplex.closeWrite();
          // Bytes that are not read would reset the connection, and with it what was sent.
          await this.#reading;
        };
        await within(CLOSE_MS, end(), late);
        await this.#duplex[Symbol.asyncDispose]();
      } catch {
        this.#duplex.abort();
      }
    }
    await this.#reading;
  }

  async #read(): Promise<void> {
    const buffer = new ReadBuffer();
    try {
      await this.#readInto(buffer);
    } catch (error) {
      this.#fail(readFailureOf(error));
    }
    buffer.release();
  }

  async #readInto(buffer: ReadBuffer): Promise<void> {
    let busyMs = 0;
    // What the parser has not taken is at the front of the buffer.
    for (let held = 0;;) {
      const { bytes } = buffer;
      const n = await this.#duplex.read(bytes.subarray(held));
      if (n === null) {
        const where = held > 0 || this.#parser.isSkipping ? " within a capsule" : "";
        throw new CarrierEndedError(`${ENDED}${where}`);
      }
      const end = held + n;
      const since = performance.now();
      const taken = this.#parser.push(bytes.subarray(0, end));
      busyMs += performance.now() - since;
      this.#received?.(n);
      held = end - taken;
      buffer.filled(end);
      if (buffer.bytes !== bytes) buffer.bytes.set(bytes.subarray(taken, end));
      else if (taken > 0 && held > 0) bytes.copyWithin(0, taken, end);
      if (busyMs < MAX_BUSY_MS) continue;
      busyMs = 0;
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
  }

  #fail(error: unknown): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#duplex.abort();
    this.#ended.resolve(error);
    this.#events.lost(error);
  }
}
