// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { CloseCode } from "./codes.ts";
import { speaksQrht } from "./dialect.ts";
import { type Duplex, writeAll } from "../tunnel/duplex.ts";
import { messageOf } from "../errors.ts";
import { version } from "../version.ts";
import { encodeFrame, type FrameEvent, FrameParser, FrameType, ProtocolError } from "./frame.ts";
import {
  decodeArrived,
  decodeDrain,
  decodeHello,
  decodePing,
  decodePong,
  encodeArrived,
  encodeDrain,
  encodeHello,
  encodePing,
  encodePong,
  type Hello,
} from "./messages.ts";

/** What control streams need of a QUIC connection. */
export interface ControlConnection {
  /** Undefined when the peer allows no such stream. */
  openUniStream(): Pick<Duplex, "write"> | undefined;
  acceptUniStream(): Promise<Pick<Duplex, "read">>;
  close(code: number, reason: string): void;
  /** How large the datagrams are, each way. */
  readonly path?: {
    /** UDP payload of the largest datagram that has come from the peer. */
    readonly largestReceived: number;
    /** Is called when that has grown. */
    onLargerReceived: (() => void) | undefined;
    /** The peer reports how large the datagrams are that it receives. */
    allowProbes(): void;
    /** The peer has received a datagram of this size. */
    confirmed(bytes: number): void;
  };
  /** Bidirectional streams open now. */
  readonly streamCount: number;
  /** For a connection that must ask whether the peer is there, and what has arrived. */
  readonly heartbeat?: {
    /** The peer answers PING. @param ask sends it */
    start(ask: () => void): void;
    /** It has. @param streams tunnel streams that it has open */
    answered(streams: number): void;
  };
}

/** What arrives on the peer's control stream. */
export interface ControlEvents {
  hello(hello: Hello): void;
  /** The peer accepts no more tunnels. */
  drain(): void;
  /** The peer has violated the dialect; the connection is closed. */
  violated(error: ProtocolError): void;
}

/** Optional features, which HELLO announces. */
const DRAIN_FEATURE = "drain";
const ARRIVED_FEATURE = "arrived";
const PING_FEATURE = "ping";

const READ_BYTES = 2048;

/**
 * The control streams of a connection (docs/protocol.md, "Control streams"): this end's and the
 * peer's.
 */
export class Control {
  readonly #connection: ControlConnection;
  readonly #events: ControlEvents;
  readonly #stream: Pick<Duplex, "write"> | undefined;
  /** Frames are sent one after the other. */
  #sent: Promise<void> = Promise.resolve();
  #peer: Hello | undefined;
  #drains = false;
  #peerDrains = false;
  /** Whether an answer to PING waits to be sent: one is enough for several. */
  #answers = false;

  /** Sends HELLO, and listens until the connection ends. */
  constructor(
    connection: ControlConnection,
    hello: Omit<Hello, "features">,
    events: ControlEvents,
  ) {
    this.#connection = connection;
    this.#events = events;
    this.#stream = openStream(connection);
    const features = [DRAIN_FEATURE, ...(connection.path ? [ARRIVED_FEATURE] : []), PING_FEATURE];
    this.#send(FrameType.Hello, encodeHello({ ...hello, features }));
    void this.#listen();
  }

  /** Tells the peer, if it knows DRAIN, that this end accepts no further tunnels. */
  drain(): void {
    this.#drains = true;
    if (this.#peer?.features.includes(DRAIN_FEATURE)) this.#send(FrameType.Drain, encodeDrain());
  }

  /** Reports to the peer, from now on, how large its datagrams are that arrive. */
  #reportArrivals(): void {
    const { path } = this.#connection;
    if (!path) return;
    path.onLargerReceived = () => {
      this.#send(FrameType.Arrived, encodeArrived(path.largestReceived));
    };
    path.allowProbes();
  }

  #answerPing(): void {
    if (this.#answers) return;
    this.#answers = true;
    this.#send(FrameType.Pong, () => {
      this.#answers = false;
      return encodePong(this.#connection.streamCount);
    });
  }

  /** @param payload of then, or what makes it when it is sent */
  #send(type: number, payload: Uint8Array | (() => Uint8Array)): void {
    const stream = this.#stream;
    if (!stream) return;
    const bytes = () => typeof payload === "function" ? payload() : payload;
    this.#sent = this.#sent.then(() => writeAll(stream, encodeFrame(type, bytes())))
      // The peer has stopped the stream, or the connection has ended; tunnels do not depend on it.
      .catch(() => {});
  }

  async #listen(): Promise<void> {
    try {
      const first = await this.#connection.acceptUniStream();
      void ignoreUniStreams(this.#connection);
      await this.#read(first);
    } catch (error) {
      // Otherwise the connection has ended, or the stream was reset.
      if (!(error instanceof ProtocolError)) return;
      this.#connection.close(CloseCode.ProtocolError, messageOf(error));
      this.#events.violated(error);
    }
  }

  async #read(stream: Pick<Duplex, "read">): Promise<void> {
    const parser = new FrameParser(FrameType.Hello);
    const buffer = new Uint8Array(READ_BYTES);
    for (let n; (n = await stream.read(buffer)) !== null;) {
      for (let at = 0; at < n;) {
        const { event, taken } = parser.next(buffer.subarray(at, n));
        at += taken;
        if (event) this.#take(event);
      }
    }
  }

  #take(event: FrameEvent): void {
    if (event.kind === "data") throw new ProtocolError("DATA on a control stream");
    const { type, payload } = event;
    switch (type) {
      case FrameType.Hello: {
        if (this.#peer) throw new ProtocolError("HELLO twice");
        this.#peer = decodeHello(payload);
        this.#events.hello(this.#peer);
        if (this.#peer.features.includes(ARRIVED_FEATURE)) this.#reportArrivals();
        if (this.#drains) this.drain();
        if (this.#peer.features.includes(PING_FEATURE)) {
          this.#connection.heartbeat?.start(() => this.#send(FrameType.Ping, encodePing()));
        }
        return;
      }
      case FrameType.Drain:
        decodeDrain(payload);
        if (!this.#peerDrains) this.#events.drain();
        this.#peerDrains = true;
        return;
      case FrameType.Arrived: {
        const bytes = decodeArrived(payload);
        this.#connection.path?.confirmed(bytes);
        return;
      }
      case FrameType.Ping:
        decodePing(payload);
        return this.#answerPing();
      case FrameType.Pong: {
        const streams = decodePong(payload);
        this.#connection.heartbeat?.answered(streams);
        return;
      }
      default:
        throw new ProtocolError(`a frame of type ${type} on a control stream`);
    }
  }
}

/**
 * Starts the control streams of a connection whose dialect has them. In others, unidirectional
 * streams mean nothing.
 */
export function startControl(
  connection: ControlConnection & { readonly alpn: string },
  hello: Pick<Hello, "program" | "name">,
  events: ControlEvents,
): Control | undefined {
  if (!speaksQrht(connection.alpn)) return void ignoreUniStreams(connection);
  return new Control(connection, { ...hello, version }, events);
}

function openStream(connection: ControlConnection): Pick<Duplex, "write"> | undefined {
  try {
    return connection.openUniStream();
  } catch {
    // The connection has ended already.
    return undefined;
  }
}

/** Discards what the peer sends on further unidirectional streams. */
async function ignoreUniStreams(
  connection: Pick<ControlConnection, "acceptUniStream">,
): Promise<void> {
  try {
    for (;;) void discard(await connection.acceptUniStream());
  } catch {
    // The connection has ended.
  }
}

async function discard(stream: Pick<Duplex, "read">): Promise<void> {
  const buffer = new Uint8Array(READ_BYTES);
  try {
    while (await stream.read(buffer) !== null);
  } catch {
    // Reset, or the connection has ended.
  }
}
