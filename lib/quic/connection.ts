// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../net/authority.ts";
import { sleep } from "../wait.ts";
import type { AgentConnection } from "./agent_connection.ts";
import { type ConnectionStats, connectionStats } from "./connection_stats.ts";
import { EarlyTimer } from "./early_timer.ts";
import { type CloseInfo, ConnectionClosedError, TlsAlert, transportCodeOf } from "./errors.ts";
import type { DatagramSocket, PeerLocation } from "./datagram_socket.ts";
import { CONNECTION_ID_BYTES, hasLongHeader, isAddressedTo } from "./handshake/packet.ts";
import { HandshakeProgress } from "./handshake/progress.ts";
import { isForAddress } from "./handshake/server_address.ts";
import { live } from "./live.ts";
import type { TransportSettings } from "./options.ts";
import { DelayedAck } from "./path/delayed_ack.ts";
import { PeerDoubt } from "./path/doubt.ts";
import { KeepAlive } from "./path/keep_alive.ts";
import { PacketSender } from "./path/packet_sender.ts";
import { PathMtu } from "./path/path_mtu.ts";
import { PeerAddress } from "./path/peer_address.ts";
import { closeInfoOf, closeNative } from "./quiche/closing.ts";
import type { HostPort, NativeConnection } from "./quiche/native.ts";
import { nothingInFlight } from "./quiche/in_flight.ts";
import type { QuicStream } from "./stream.ts";
import { ConnectionStreams, type StreamsHost } from "./streams.ts";

/** What a connection needs of its endpoint. */
export interface ConnectionHost {
  /**
   * Runs {@linkcode QuicConnection.flush} once, after everything else that this turn of the event
   * loop has.
   */
  schedule(connection: QuicConnection): void;
  /** Schedules it when a socket has room again. */
  starved(connection: QuicConnection, socket: DatagramSocket): void;
  /** The handshake is over; for a server this means that the client's certificate was accepted. */
  established(connection: QuicConnection): void;
  /** The connection has closed and is of no more use. Its last packets may still be answered. */
  closed(connection: QuicConnection, info: CloseInfo): void;
  /** Nothing more is to be sent or answered: forget the connection. */
  drained(connection: QuicConnection): void;
}

/** Time that the packets of a closed connection are still answered at most. */
const MAX_DRAIN_MS = 1_000;

/** Bytes of a connection id that tell it from others in a log. */
const ID_BYTES = CONNECTION_ID_BYTES / 2;

/** Times that a window doubles more often than quiche has it do. */
const MORE_DOUBLINGS = 3;

/** Time between two looks whether all was acknowledged. */
const SETTLED_LOOK_MS = 5;

/** The peer no longer has the connection (RFC 9000 §10.3). */
const STATELESS_RESET: CloseInfo = {
  by: "reset",
  application: false,
  code: 0,
  reason: "the peer does not know it any more",
};

const decoder = new TextDecoder();

let lastNumber = 0;

/** A QUIC connection (RFC 9000 §5) whose both ends have shown certificates. */
export class QuicConnection implements AgentConnection, StreamsHost {
  readonly library = "binding";
  /** Number of the connection in this process, from 1. */
  readonly number = ++lastNumber;
  readonly role: "client" | "server";
  /** Settles, and never rejects, when the connection has ended for any reason. */
  readonly closed: Promise<CloseInfo>;
  /**
   * Resolves once the peer has accepted this end's certificate: what a client believes to be
   * established is not, before (RFC 9001 §4.1.2). Rejects with `ConnectionClosedError` when that
   * never happens.
   */
  readonly confirmed: Promise<void>;
  /** How large the datagrams are, each way. */
  readonly path: PathMtu;
  /**
   * Whether something else can take the place of this connection, which is asked when the peer does
   * not acknowledge what was sent to it: if so, the connection is given up early.
   *
   * @default {() => false}
   */
  maySpare: (() => boolean) | undefined;
  readonly #host: ConnectionHost;
  readonly #native: NativeConnection;
  readonly #serverAddress: string | undefined;
  readonly #settings: TransportSettings;
  /** The addresses that quiche knows, whatever the peer's is now. */
  readonly #addresses: { readonly from: HostPort; readonly to: HostPort };
  readonly #streams: ConnectionStreams;
  readonly #closedSettled = Promise.withResolvers<CloseInfo>();
  readonly #confirmedSettled = Promise.withResolvers<void>();
  readonly #startedAt = performance.now();
  readonly #peer: PeerAddress;
  #id = "";
  readonly #sender: PacketSender;
  /** The shorter one of both ends' (RFC 9000 §10.1), once the peer has told its own. */
  #idleTimeoutMs: number;
  readonly #handshake: HandshakeProgress;
  #closeInfo: CloseInfo | undefined;
  #closedAt = Infinity;
  #drained = false;
  /** Whether something was done that may have ended the connection in quiche, unknown here. */
  #mayHaveEnded = true;
  readonly #ack = new DelayedAck();
  #receivedAt = this.#startedAt;
  readonly #keepAlive: KeepAlive;
  readonly #doubt: PeerDoubt;
  /** When the connection is over, unless another carrier takes the place of the one that is gone. */
  #detachedUntil = Infinity;
  /** Serves loss detection, idling, the handshake and keepalive. */
  readonly #timer = new EarlyTimer(() => this.#onTimer());

  /** @internal Connections come from `QuicEndpoint`. */
  constructor(options: {
    role: "client" | "server";
    host: ConnectionHost;
    native: NativeConnection;
    settings: TransportSettings;
    /** As quiche knows them. */
    addresses: { readonly from: HostPort; readonly to: HostPort };
    peer: PeerLocation;
    maxDatagramBytes: number;
    /** IP address that the server's certificate must have; quiche verifies names only. */
    serverAddress?: string | undefined;
  }) {
    this.#serverAddress = options.serverAddress;
    this.role = options.role;
    this.#host = options.host;
    this.#native = options.native;
    this.#settings = options.settings;
    this.#addresses = options.addresses;
    this.path = new PathMtu(options.maxDatagramBytes);
    this.#peer = new PeerAddress(options.peer);
    // A client's server stays where it is.
    this.#doubt = new PeerDoubt(options.role === "server");
    this.#sender = new PacketSender({
      native: options.native,
      peer: this.#peer,
      path: this.path,
      more: () => this.#host.schedule(this),
      starved: (socket) => this.#host.starved(this, socket),
    });
    this.#keepAlive = new KeepAlive(options.settings.keepAliveMs, this.#startedAt);
    this.#idleTimeoutMs = options.settings.idleTimeoutMs;
    const { handshakeTimeoutMs, carrierHandshakeTimeoutMs } = options.settings;
    const timeoutMs = this.isCarried ? carrierHandshakeTimeoutMs : handshakeTimeoutMs;
    this.#handshake = new HandshakeProgress(this.role, timeoutMs, this.#startedAt);
    this.#streams = new ConnectionStreams(options.native, this);
    this.closed = this.#closedSettled.promise;
    this.confirmed = this.#confirmedSettled.promise;
    this.confirmed.catch(() => {});
    live.connections++;
  }

  /**
   * What both ends call this connection, empty before the handshake is over: the first half, in
   * hexadecimal digits, of the connection id that the server has chosen (RFC 9000 §7.2).
   */
  get id(): string {
    return this.#id;
  }

  /** Address the peer sends from; a NAT may change it while the connection goes on. */
  get remoteAddr(): PeerLocation {
    return this.#peer.current;
  }

  /** Whether a carrier takes the place of UDP. */
  get isCarried(): boolean {
    return this.#peer.current.socket.isCarrier;
  }

  /** How the connection ended, once it has. */
  get closeInfo(): CloseInfo | undefined {
    return this.#closeInfo;
  }

  /** ALPN name that both ends agreed on, empty before the handshake is over. */
  get alpn(): string {
    return decoder.decode(this.#native.applicationProto());
  }

  get isEstablished(): boolean {
    return this.#handshake.isEstablished;
  }

  /** Whether a stream can be opened now. */
  get hasStreamCredit(): boolean {
    return this.#streams.creditLeft > 0;
  }

  /** Bidirectional streams open now, of either end. */
  get streamCount(): number {
    return this.#streams.count;
  }

  /**
   * Bidirectional streams of either end, since the beginning, whose writing direction was reset by
   * this end or stopped by the peer. If bytes waited to be sent then, quiche 0.18.0 holds the
   * stream for ever, and the peer's credit for it.
   */
  get cutStreams(): number {
    return this.#streams.cutCount;
  }

  /** Time since the last datagram of the peer's, in milliseconds. */
  get silentForMs(): number {
    return performance.now() - this.#receivedAt;
  }

  /** Whether the peer may be gone: it has not answered the first probe in time, or its carrier is. */
  get isDoubted(): boolean {
    return this.#doubt.isUnanswered || this.#detachedUntil < Infinity;
  }

  /** The peer's certificates, DER, leaf first; null before it has shown any. */
  get peerCertificates(): Uint8Array[] | null {
    return this.#native.peerCertChain();
  }

  stats(): ConnectionStats {
    return connectionStats(this.#native, this.#streams);
  }

  /**
   * Opens a bidirectional stream with credit that is there.
   *
   * @throws {StreamOpenError} when there is none
   * @throws {ConnectionClosedError} when the connection has ended
   */
  openStream(): QuicStream {
    return this.#streams.open();
  }

  /** Resolves, and never rejects, when a stream can be opened, or the connection has ended. */
  credit(): Promise<void> {
    return this.#streams.credit();
  }

  /**
   * The next stream that the peer has opened. At most `maxStreams` wait to be accepted.
   *
   * @throws {ConnectionClosedError} when the connection has ended
   */
  acceptStream(): Promise<QuicStream> {
    return this.#streams.accept();
  }

  /**
   * The next unidirectional stream that the peer has opened. At most `maxUniStreams` wait to be
   * accepted.
   *
   * @throws {ConnectionClosedError} when the connection has ended
   */
  acceptUniStream(): Promise<QuicStream> {
    return this.#streams.acceptUni();
  }

  /** Unidirectional streams that may be opened now. */
  get uniCredit(): number {
    return this.#streams.uniCreditLeft;
  }

  /**
   * Opens a unidirectional stream; undefined when the peer's credit allows none now.
   *
   * @throws {ConnectionClosedError} when the connection has ended
   */
  openUniStream(): QuicStream | undefined {
    return this.#streams.openUni();
  }

  /**
   * Waits until the peer has acknowledged all that was written, the connection has ended, or the
   * time is over: what is under way when the connection is closed is lost.
   */
  async settled(timeoutMs: number): Promise<void> {
    const giveUpAt = performance.now() + timeoutMs;
    let now: number;
    do {
      await sleep(SETTLED_LOOK_MS);
      now = performance.now();
    } while (!this.#closeInfo && now < giveUpAt && !this.#isSettled(now));
  }

  #isSettled(now: number): boolean {
    return !this.#sender.isCut && !this.#streams.hasPendingFins && this.#nothingInFlight(now);
  }

  #nothingInFlight(now: number): boolean {
    return nothingInFlight(this.#native, now - this.#receivedAt, this.#idleTimeoutMs);
  }

  /**
   * Closes the connection at once (CONNECTION_CLOSE); its streams throw, what was not delivered is
   * lost. Idempotent.
   *
   * @param code application error code
   * @param reason shown to the peer, cut to 256 bytes
   */
  close(code: number, reason = ""): void {
    if (this.#closeInfo) return;
    this.#closeNative(true, code, reason);
    this.#finish({ by: "local", application: true, code, reason });
  }

  /** What may be the peer's successor has connected: the peer is probed, and given up if silent. */
  doubt(): void {
    this.#raiseDoubt("successor");
  }

  /** @internal The carrier to the peer is gone, and another one takes its place soon or never. */
  detached(socket: DatagramSocket, waitMs: number): void {
    if (this.#closeInfo || this.#peer.current.socket !== socket) return;
    this.#detachedUntil = performance.now() + waitMs;
    this.#host.schedule(this);
  }

  /** @internal Another carrier has taken the place of the one before: the peer is to notice. */
  reattached(): void {
    if (this.#closeInfo || !this.#handshake.isEstablished) return;
    this.#native.sendAckEliciting();
    this.wake();
  }

  /**
   * @internal No program receives what is sent to the peer, its system says.
   *
   * @param datagram the first bytes of what was sent: who has not seen those cannot say so
   */
  refused(datagram: Uint8Array): void {
    if (!this.#doubt.heedsRefusals) return;
    if (isAddressedTo(datagram, this.#native.destinationId())) this.#raiseDoubt("refused");
  }

  #raiseDoubt(cause: "successor" | "refused"): void {
    // A carrier that stalls delays the answer; its end is known.
    if (this.#closeInfo || this.isCarried) return;
    const { dueAt } = this.#doubt;
    this.#doubt.raise(cause, performance.now(), this.#native);
    if (this.#doubt.dueAt < dueAt) this.#host.schedule(this);
  }

  /** @internal A datagram of no known connection, which may be a stateless reset for this one. */
  receiveReset(bytes: Uint8Array): void {
    try {
      this.#native.recv(bytes, this.#addresses);
    } catch {
      // It is none, and worth nothing else.
    }
    this.#noticeState();
  }

  /** @internal A datagram for this connection, which came at about this time. */
  receive(bytes: Uint8Array, from: Authority, socket: DatagramSocket, now: number): void {
    this.#receivedAt = now;
    this.path.heard(this.#receivedAt);
    if (this.#handshake.receive(bytes.length)) {
      return this.#closeTransport(0, "the peer sent too much before it authenticated itself");
    }
    // A client's server stays where it is.
    const mayMove = this.#handshake.isEstablished && this.role === "server" &&
      this.#peer.concerns(from, socket);
    const isLarger = bytes.length > this.path.largestReceived;
    const count = mayMove || isLarger || !this.#handshake.isConfirmed;
    const before = count ? this.#native.stats().recv : 0;
    try {
      this.#native.recv(bytes, this.#addresses);
    } catch {
      // quiche has closed the connection with the fitting code.
      this.#mayHaveEnded = true;
    }
    const authentic = count && this.#native.stats().recv > before;
    if (
      mayMove && authentic && this.#peer.authentic(from, socket, bytes.length, this.#receivedAt)
    ) {
      // Its answer proves the address.
      this.#native.sendAckEliciting();
      this.#ack.news();
      this.#detachedUntil = Infinity;
    }
    if (authentic && isLarger) this.path.received(bytes.length);
    if (!this.#handshake.isConfirmed && authentic) this.#noticeHandshake(bytes);
    this.#ack.received(bytes.length);
    this.#host.schedule(this);
  }

  /** @internal Tells streams what the datagrams of this turn have brought. */
  dispatch(): void {
    if (this.#mayHaveEnded || this.#native.isDraining()) this.#noticeState();
    if (this.#closeInfo) return;
    this.#streams.serveReaders();
    if (!this.#sender.isCut) this.#streams.serveWriters();
  }

  /** @internal Sends what there is to send. */
  flush(): void {
    const now = performance.now();
    this.#peer.settle(now);
    if (!this.#closeInfo) this.path.look(now, now - this.#receivedAt, this);
    this.#growWindows(now);
    if (!this.#mayPutOff(now)) this.#sendPackets(now);
    if (!this.#sender.isCut) {
      if (this.#streams.allSent(now, now - this.#receivedAt, this.#idleTimeoutMs)) {
        this.#sendPackets(now, true);
      }
      if (!this.#sender.isCut) this.#streams.serveWriters();
    }
    if (this.#mayHaveEnded) this.#noticeState();
    this.#arm(now);
  }

  /** @internal There is something to send that is not an answer to what was received. */
  wake(): void {
    this.#ack.news();
    this.#host.schedule(this);
  }

  /** @internal There may be something to send. */
  schedule(): void {
    this.#host.schedule(this);
  }

  #mayPutOff(now: number): boolean {
    return !this.#sender.isCut && this.#handshake.isConfirmed &&
      this.#ack.putOff(now, this.#native, () => this.#nothingInFlight(now));
  }

  #sendPackets(now: number, mustLeave = false): void {
    this.#ack.sent(this.#sender.send(now, mustLeave));
  }

  #growWindows(now: number): void {
    const packetBytes = this.#streams.windowPacketBytes(now);
    if (packetBytes === undefined) return;
    for (let i = 0; i < MORE_DOUBLINGS; i++) this.#sender.tryOne(packetBytes);
  }

  /** @internal The endpoint goes away. */
  destroy(reason: string): void {
    this.#finish({ by: "local", application: true, code: 0, reason });
    this.#drain();
  }

  #noticeHandshake(bytes: Uint8Array): void {
    if (
      !this.#handshake.isEstablished && this.#native.isEstablished() && !this.#native.isDraining()
    ) {
      if (!this.#isServerAddressRight()) {
        return this.#closeTransport(transportCodeOf(TlsAlert.BadCertificate), "");
      }
      this.#handshake.established();
      this.#ack.news();
      const { peerMaxIdleTimeout } = this.#native.stats();
      if (peerMaxIdleTimeout > 0) {
        this.#idleTimeoutMs = Math.min(this.#idleTimeoutMs, peerMaxIdleTimeout);
      }
      const id = this.role === "server" ? this.#native.sourceId() : this.#native.destinationId();
      this.#id = id.subarray(0, ID_BYTES).toHex();
      if (this.#mustDiscover()) this.path.search(this.#native.maxSendUdpPayloadSize());
      this.#host.established(this);
      if (this.role === "server") this.#confirm();
    } else if (
      this.#handshake.isEstablished && !hasLongHeader(bytes) && !this.#native.isDraining()
    ) {
      this.#confirm();
    }
  }

  /** Whether it must be found out how large the datagrams are that the path carries. */
  #mustDiscover(): boolean {
    const { socket } = this.#peer.current;
    return socket.isCarrier
      ? socket.maxDatagramBytes(this.#peer.current) === undefined
      : this.#settings.mtu === 0;
  }

  #isServerAddressRight(): boolean {
    if (this.#serverAddress === undefined) return true;
    const [leaf] = this.peerCertificates ?? [];
    return leaf !== undefined && isForAddress(leaf, this.#serverAddress);
  }

  #confirm(): void {
    this.#handshake.confirmed();
    this.#confirmedSettled.resolve();
  }

  #noticeState(): void {
    this.#mayHaveEnded = !this.#handshake.isConfirmed || this.#closeInfo !== undefined;
    if (this.#drained) return;
    if (this.#native.isClosed()) {
      this.#finish(this.#endOf());
      this.#drain();
    } else if (!this.#closeInfo && (this.#native.isDraining() || this.#native.localError())) {
      this.#finish(this.#endOf());
    }
  }

  #endOf(): CloseInfo {
    const info = closeInfoOf(this.#native);
    if (info) return info;
    if (this.#handshake.isEstablished && !this.#native.isTimedOut()) return STATELESS_RESET;
    const reason = this.#handshake.isEstablished ? this.#silence : "no answer to the handshake";
    return { by: "timeout", application: false, code: 0, reason, ...this.#circumstances };
  }

  #finish(info: CloseInfo): void {
    if (this.#closeInfo) return;
    this.#closeInfo = info;
    this.#closedAt = performance.now();
    live.connections--;
    const error = new ConnectionClosedError(
      info,
      this.#handshake.isConfirmed ? null : this.peerCertificates,
    );
    this.#streams.end(error);
    this.#confirmedSettled.reject(error);
    this.#closedSettled.resolve(info);
    this.#host.closed(this, info);
  }

  #drain(): void {
    if (this.#drained) return;
    this.#drained = true;
    this.#timer.stop();
    this.#host.drained(this);
  }

  get #silence(): string {
    return `no packet from the peer for ${this.#settings.idleTimeoutMs} ms`;
  }

  get #circumstances(): Pick<CloseInfo, "isUnanswered" | "isCarried"> {
    return {
      ...(this.#handshake.isUnanswered && { isUnanswered: true }),
      ...(this.isCarried && { isCarried: true }),
    };
  }

  #timeOut(ending: Pick<CloseInfo, "reason" | "isRefused">): void {
    this.#closeNative(false, 0, ending.reason);
    this.#finish({ by: "timeout", application: false, code: 0, ...ending, ...this.#circumstances });
  }

  #closeTransport(code: number, reason: string): void {
    this.#closeNative(false, code, reason);
    this.#finish({ by: "local", application: false, code, reason });
  }

  #closeNative(application: boolean, code: number, reason: string): void {
    closeNative(this.#native, application, code, reason);
    this.wake();
  }

  #arm(now: number): void {
    if (this.#drained) return;
    const timeout = this.#native.timeout();
    let at = timeout === null ? Infinity : now + timeout;
    if (this.#closeInfo) at = Math.min(at, this.#closedAt + MAX_DRAIN_MS);
    else {
      const { dueAt } = this.#handshake.isConfirmed ? this.#keepAlive : this.#handshake;
      at = Math.min(at, dueAt);
      if (this.#handshake.isEstablished) {
        at = Math.min(at, this.#receivedAt + this.#settings.idleTimeoutMs);
      }
      at = Math.min(
        at,
        this.#ack.dueAt,
        this.#doubt.dueAt,
        this.#streams.dueAt(now),
        this.#peer.movingUntil,
        this.#detachedUntil,
      );
    }
    this.#timer.fireBy(at, now);
  }

  #onTimer(): void {
    this.#ack.news();
    const now = performance.now();
    if (this.#native.timeout() === 0) {
      this.#native.onTimeout();
      this.#mayHaveEnded = true;
      this.#sender.late();
      this.#peer.current.socket.noticeErrors();
    }
    // With each packet that is sent, quiche puts its timer for acknowledgements off.
    if (this.#mayDoubt && !this.#nothingInFlight(now)) this.#doubt.inFlight(now, this.#receivedAt);
    const { idleTimeoutMs } = this.#settings;
    if (this.#closeInfo) {
      // Only its last packets are still to be answered.
    } else if (now >= this.#handshake.dueAt) {
      this.#timeOut({ reason: this.#handshake.timeoutReason });
    } else if (this.#handshake.isEstablished && now >= this.#receivedAt + idleTimeoutMs) {
      // quiche counts from what this end has sent last, if nothing was heard since (RFC 9000
      // §10.1).
      this.#timeOut({ reason: this.#silence });
    } else if (now >= this.#detachedUntil) {
      this.#timeOut({ reason: "the carrier is gone, and no other one has come" });
    } else this.#probe(now);
    this.dispatch();
    this.flush();
    if (now - this.#closedAt >= MAX_DRAIN_MS) this.#drain();
  }

  /** Whether a peer that leaves something unanswered may be given up early. */
  get #mayDoubt(): boolean {
    return this.maySpare !== undefined && !this.isCarried;
  }

  /** Sends a PING if it is time for one, or gives up a peer that has not answered the last ones. */
  #probe(now: number): void {
    const maySpare = () => this.#mayDoubt && this.maySpare!();
    const verdict = this.#doubt.look(now, this.#receivedAt, this.#native, maySpare);
    if (verdict === "lost") return this.#timeOut(this.#doubt.ending);
    if (verdict === "probe") {
      this.#sender.late();
      this.#peer.current.socket.noticeErrors();
    }
    if (!this.#handshake.isEstablished) return;
    if (verdict === "probe" || this.#keepAlive.isDue(now, this.#native, this.#receivedAt)) {
      this.#native.sendAckEliciting();
    }
  }
}
