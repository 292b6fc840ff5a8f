// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { NO_BYTES } from "../bytes.ts";
import { type CloseInfo, ConnectionClosedError, StreamOpenError } from "./errors.ts";
import { live } from "./live.ts";
import { freeStream } from "./quiche/closing.ts";
import { type NativeConnection, nativeErrorOf, Shutdown } from "./quiche/native.ts";
import { LoneFins } from "./quiche/lone_fins.ts";
import { UncollectedStreams } from "./quiche/uncollected_streams.ts";
import { WindowGrowth } from "./quiche/window_growth.ts";
import { QuicStream, type StreamDirection, type StreamTransport } from "./stream.ts";
import { IncomingStreams } from "./streams/incoming_streams.ts";
import { StreamCredit } from "./streams/stream_credit.ts";
import { StreamPriorities } from "./streams/stream_priorities.ts";
import { StreamQueue } from "./streams/stream_queue.ts";
import { TimeBudget } from "./streams/time_budget.ts";

/** What streams need of their connection. */
export interface StreamsHost {
  readonly role: "client" | "server";
  readonly isEstablished: boolean;
  /** How the connection ended, once it has. */
  readonly closeInfo: CloseInfo | undefined;
  /** There is something to send, at the end of this turn of the event loop. */
  wake(): void;
  /** There may be something to send, which can wait for what goes with it. */
  schedule(): void;
}

/** Type of a stream, the two low bits of its id (RFC 9000 §2.1). */
const SERVER_INITIATED = 0b01;
const UNIDIRECTIONAL = 0b10;

const isUni = (id: number) => (id & UNIDIRECTIONAL) !== 0;

const serveReader = (stream: QuicStream) => stream.onReadable();
const serveWriter = (stream: QuicStream) => stream.onWritable();

/**
 * Share of the time that looking through many readers may take, and by how much it is put off at
 * most: only ends that come alone are found that way, as quiche tells of bytes and resets.
 */
const ENDS_SHARE = 0.01;
const MAX_ENDS_DELAY_MS = 100;

/**
 * The streams of a connection: those that are open, those that come, and which of them are served
 * when.
 */
export class ConnectionStreams implements StreamTransport {
  readonly #host: StreamsHost;
  readonly #native: NativeConnection;
  readonly #open = new Map<number, QuicStream>();
  readonly #readers = new StreamQueue<QuicStream>(
    new TimeBudget(ENDS_SHARE, ENDS_SHARE * MAX_ENDS_DELAY_MS),
  );
  readonly #priorities = new StreamPriorities();
  readonly #youngWriters = new StreamQueue<QuicStream>();
  readonly #oldWriters = new StreamQueue<QuicStream>();
  readonly #queues = [this.#readers, this.#youngWriters, this.#oldWriters];
  readonly #credit = new StreamCredit();
  readonly #incoming: IncomingStreams<QuicStream>;
  readonly #incomingUni: IncomingStreams<QuicStream>;
  /** Streams that have bytes of which none may have left. */
  readonly #unsent = new Set<number>();
  readonly #fins = new LoneFins();
  readonly #uncollected = new UncollectedStreams();
  readonly #windows = new WindowGrowth();
  #nextLocalId: number;
  #nextLocalUniId: number;
  #count = 0;
  #cutCount = 0;

  constructor(native: NativeConnection, host: StreamsHost) {
    this.#native = native;
    this.#host = host;
    const [own, peers] = host.role === "server" ? [SERVER_INITIATED, 0] : [0, SERVER_INITIATED];
    this.#nextLocalId = own;
    this.#nextLocalUniId = own | UNIDIRECTIONAL;
    this.#incoming = new IncomingStreams(peers);
    this.#incomingUni = new IncomingStreams(peers | UNIDIRECTIONAL);
  }

  /** Bidirectional streams open now, of either end. */
  get count(): number {
    return this.#count;
  }

  /**
   * Bidirectional streams so far of which this end's direction was reset by it, or stopped by the
   * peer.
   */
  get cutCount(): number {
    return this.#cutCount;
  }

  /** Bidirectional streams that may be opened now. */
  get creditLeft(): number {
    const { isEstablished, closeInfo } = this.#host;
    return isEstablished && !closeInfo ? this.#native.peerStreamsLeftBidi() : 0;
  }

  /** Unidirectional streams that may be opened now. */
  get uniCreditLeft(): number {
    const { isEstablished, closeInfo } = this.#host;
    return isEstablished && !closeInfo ? this.#native.peerStreamsLeftUni() : 0;
  }

  /** Whether an end (FIN) is still to be sent. */
  get hasPendingFins(): boolean {
    return this.#fins.pending;
  }

  /**
   * Opens a bidirectional stream.
   *
   * @throws {StreamOpenError} when there is no credit
   * @throws {ConnectionClosedError} when the connection has ended
   */
  open(): QuicStream {
    this.#throwIfClosed();
    if (this.creditLeft === 0) throw new StreamOpenError("the peer allows no more streams");
    const id = this.#nextLocalId;
    this.#nextLocalId += 4;
    return this.#openLocal(id, "both");
  }

  /**
   * Opens a unidirectional stream; undefined when there is no credit.
   *
   * @throws {ConnectionClosedError} when the connection has ended
   */
  openUni(): QuicStream | undefined {
    this.#throwIfClosed();
    if (this.uniCreditLeft === 0) return undefined;
    const id = this.#nextLocalUniId;
    this.#nextLocalUniId += 4;
    return this.#openLocal(id, "send");
  }

  /** Resolves, and never rejects, when there is credit, or the connection has ended. */
  credit(): Promise<void> {
    if (this.#host.closeInfo || this.creditLeft > 0) return Promise.resolve();
    return this.#credit.wait();
  }

  /**
   * The next bidirectional stream of the peer's.
   *
   * @throws {ConnectionClosedError} when the connection has ended
   */
  accept(): Promise<QuicStream> {
    return this.#take(this.#incoming);
  }

  /**
   * The next unidirectional stream of the peer's.
   *
   * @throws {ConnectionClosedError} when the connection has ended
   */
  acceptUni(): Promise<QuicStream> {
    return this.#take(this.#incomingUni);
  }

  #take(streams: IncomingStreams<QuicStream>): Promise<QuicStream> {
    const { closeInfo } = this.#host;
    if (closeInfo) return Promise.reject(new ConnectionClosedError(closeInfo));
    return streams.take();
  }

  #throwIfClosed(): void {
    const { closeInfo } = this.#host;
    if (closeInfo) throw new ConnectionClosedError(closeInfo);
  }

  #openLocal(id: number, direction: StreamDirection): QuicStream {
    // Takes the credit; nothing is sent.
    this.#native.streamSend(id, NO_BYTES, false);
    return this.#add(id, direction);
  }

  #add(id: number, direction: StreamDirection): QuicStream {
    const stream = new QuicStream(id, this, direction);
    this.#open.set(id, stream);
    if (direction !== "receive") this.#priorities.opened(id);
    this.#counted(id, 1);
    return stream;
  }

  #counted(id: number, change: 1 | -1): void {
    live[isUni(id) ? "uniStreams" : "streams"] += change;
    if (!isUni(id)) this.#count += change;
  }

  /** Tells those that read what datagrams have brought, and hands out credit. */
  serveReaders(): void {
    this.#readers.serve(serveReader);
    this.#acceptReadable(this.#incoming);
    this.#acceptReadable(this.#incomingUni);
    // What is readable still has no reader, unless there are many, or a new stream has overtaken
    // one before it.
    const now = performance.now();
    const readable = this.#native.isReadable() ? () => this.#readable() : undefined;
    this.#readers.scan(now, serveReader, readable);
    this.#readers.sweep(now, serveReader);
    if (this.#credit.isAwaited) this.#credit.serve(() => this.creditLeft > 0);
    if (this.#uncollected.release(this.#native, now)) this.#host.wake();
  }

  #acceptReadable(streams: IncomingStreams<QuicStream>): void {
    while (this.#native.streamReadable(streams.nextId)) this.#acceptId(streams.nextId);
  }

  #readable(): QuicStream[] {
    const streams: QuicStream[] = [];
    for (const id of this.#native.readable()) {
      const stream = this.#open.get(id) ?? this.#acceptId(id);
      if (stream) streams.push(stream);
    }
    return streams;
  }

  /** A readable stream that is not open here: new, unless it was opened and ended before. */
  #acceptId(id: number): QuicStream | undefined {
    const uni = isUni(id);
    const streams = uni ? this.#incomingUni : this.#incoming;
    if (!streams.isNew(id)) return undefined;
    const stream = this.#add(id, uni ? "receive" : "both");
    streams.add(stream);
    return stream;
  }

  /** Tells those that write that there may be room, the young ones first. */
  serveWriters(): void {
    if (this.#host.closeInfo) return;
    this.#youngWriters.serve(serveWriter);
    this.#youngWriters.sweep(performance.now(), serveWriter);
    this.#oldWriters.serve(serveWriter);
    this.#oldWriters.sweep(performance.now(), serveWriter);
  }

  /**
   * All that was written has left. Hands over the ends whose time has come.
   *
   * @param idleForMs time for which nothing was heard of the peer
   * @param idleTimeoutMs idle timeout of the connection
   * @returns whether some are to be sent at once
   */
  allSent(now: number, idleForMs: number, idleTimeoutMs: number): boolean {
    this.#unsent.clear();
    if (!this.#fins.pending || this.#host.closeInfo) return false;
    const release = (id: number) => this.#open.get(id)?.onReadable();
    return this.#fins.advance(this.#native, now, idleForMs, idleTimeoutMs, release);
  }

  /**
   * The size of a packet that makes windows grow, see {@linkcode WindowGrowth.emptyPacketBytes}.
   */
  windowPacketBytes(now: number): number | undefined {
    return this.#windows.emptyPacketBytes(this.#native, now);
  }

  /** When to look at them again, if nothing happens before. */
  dueAt(now: number): number {
    return Math.min(
      this.#readers.dueAt(now),
      this.#youngWriters.dueAt(now),
      this.#oldWriters.dueAt(now),
      this.#uncollected.nextLookAt,
      Math.max(now, this.#fins.nextLookAt),
    );
  }

  /** The connection has ended. */
  end(error: ConnectionClosedError): void {
    this.#fins.clear();
    for (const stream of [...this.#open.values()]) {
      // What can still be read is kept until it was, or its reader wants it no more.
      const unread = error.info.by === "peer" && this.#native.streamReadable(stream.id);
      stream.onClosed(error, unread);
      if (!unread) freeStream(this.#native, stream.id);
    }
    this.#credit.end();
    for (const streams of [this.#incoming, this.#incomingUni]) {
      for (const stream of streams.end(error)) stream.stop(0);
    }
    for (const queue of this.#queues) queue.clear();
  }

  streamRecv(id: number, buffer: Uint8Array): [number, boolean] | null {
    if (this.#fins.holds(id)) return null;
    const got = this.#native.streamRecv(id, buffer);
    // There may be new credit to tell the peer.
    if (!got || this.#host.closeInfo) return got;
    this.#windows.read(id, got[0], performance.now());
    // A peer that this end has said all to may wait for the acknowledgement before it sends FIN.
    const isAwaited = isUni(id) || (!got[1] && this.#open.get(id)?.isWriteEnded);
    if (isAwaited) this.#host.wake();
    else this.#host.schedule();
    return got;
  }

  streamEnded(id: number): boolean {
    // A FIN that comes with bytes that have been read already makes nothing readable in quiche
    // 0.18.0.
    return !this.#fins.holds(id) && this.#native.streamFinished(id);
  }

  streamSend(id: number, bytes: Uint8Array, fin: boolean): number | null {
    const taken = this.#native.streamSend(id, bytes, fin);
    // A stream that quiche has dropped would never have room: throws what happened to it.
    if (taken === null) this.#native.streamCapacity(id);
    else {
      this.#unsent.add(id);
      this.#priorities.sent(this.#native, id, taken);
      this.#host.wake();
    }
    return taken;
  }

  streamFinish(id: number, readEnded: boolean): void {
    if (this.#unsent.has(id)) this.#native.streamSend(id, NO_BYTES, true);
    else this.#fins.add(this.#native, id, readEnded);
    this.#host.wake();
  }

  streamReset(id: number, code: number): void {
    this.#fins.delete(id);
    this.#shutdown(id, Shutdown.Write, code);
  }

  streamStop(id: number, code: number): void {
    this.#shutdown(id, Shutdown.Read, code);
  }

  #shutdown(id: number, direction: number, code: number): void {
    if (this.#host.closeInfo) return freeStream(this.#native, id);
    try {
      this.#native.streamShutdown(id, direction, code);
      this.#host.wake();
    } catch (error) {
      // The peer was faster: the direction is over.
      if (nativeErrorOf(error).name !== "InvalidStreamState") throw error;
    }
  }

  waitReadable(stream: QuicStream): void {
    this.#readers.add(stream);
  }

  waitWritable(stream: QuicStream): void {
    const writers = this.#priorities.isYoung(stream.id) ? this.#youngWriters : this.#oldWriters;
    writers.add(stream);
  }

  streamDone(
    stream: QuicStream,
    unread: "reset" | "stopped" | undefined,
    isCut: boolean,
  ): void {
    if (!this.#open.delete(stream.id)) return;
    if (isCut && !isUni(stream.id)) this.#cutCount++;
    if (unread && !this.#host.closeInfo) {
      this.#uncollected.add(stream.id, unread);
      this.#host.wake();
    }
    this.#counted(stream.id, -1);
    this.#fins.readEnded(stream.id);
    this.#priorities.ended(stream.id);
    this.#windows.ended(stream.id);
    for (const queue of this.#queues) queue.forget(stream);
  }
}
