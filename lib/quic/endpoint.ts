// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { randomBytes } from "node:crypto";
import { clearImmediate, setImmediate } from "node:timers";
import type { Authority } from "../net/authority.ts";
import { isIpAddress } from "../net/ip_address.ts";
import { type ConnectionHost, QuicConnection } from "./connection.ts";
import { type DropReason, type EndpointStats, noDrops } from "./endpoint_stats.ts";
import type { DatagramSocket, OpenDatagramSocket, PeerLocation } from "./datagram_socket.ts";
import { type CloseInfo, ConnectionClosedError } from "./errors.ts";
import {
  CONNECTION_ID_BYTES,
  connectionIdKey,
  hasBytesAt,
  hasLongHeader,
  parseLongHeader,
} from "./handshake/packet.ts";
import { Listener, type ListenerHost, type ListenOptions } from "./listener.ts";
import {
  identityOf,
  MAX_RECEIVED_DATAGRAM_BYTES,
  mayRetry,
  nativeConfig,
  type TransportOptions,
  type TransportSettings,
  transportSettings,
} from "./options.ts";
import { locate } from "./path/peer_address.ts";
import { BASE_DATAGRAM_BYTES, MAX_DATAGRAM_BYTES, MIN_DATAGRAM_BYTES } from "./path/path_mtu.ts";
import { type HostPort, hostPort, type NativeConnection, quiche } from "./quiche/native.ts";
import { headerBytes, sourceHostname } from "./udp/route.ts";
import { UdpSocket } from "./udp/socket.ts";

export interface BindOptions {
  /** Address to bind, an IP address. */
  readonly hostname: string;
  /** UDP port, 0 for any. */
  readonly port: number;
  /** Takes connections with these options; without them, it only makes some. */
  readonly listen?: ListenOptions;
}

/** For an endpoint whose connections all go through one carrier. */
export interface CarrierOptions {
  /** Opens the carrier. */
  readonly carrier: OpenDatagramSocket;
}

/**
 * One UDP socket with any number of connections, told apart by connection id; they may come through
 * carriers as well.
 *
 * Datagrams that arrive in one turn of the event loop are all handed in first; then streams learn
 * what they have, and at the end of the turn each connection concerned sends once.
 */
export class QuicEndpoint implements ConnectionHost, ListenerHost, AsyncDisposable {
  /** @internal */
  readonly socket: DatagramSocket;
  readonly #carriers = new Set<DatagramSocket>();
  readonly #local: HostPort;
  readonly #connections = new Map<string, QuicConnection>();
  readonly #keys = new Map<QuicConnection, string>();
  readonly #received = new Set<QuicConnection>();
  /** When the first datagram came of those that are not dispatched yet. */
  #receivedAt = 0;
  /** The connection of the last packet with a short header: most come in bursts. */
  #last: { readonly cid: Uint8Array; readonly connection: QuicConnection } | undefined;
  readonly #dirty = new Set<QuicConnection>();
  /** Those that wait for room, by the socket. */
  readonly #starved = new Map<DatagramSocket, Set<QuicConnection>>();
  readonly #listener: Listener | undefined;
  readonly #dropped = noDrops();
  #receivedCount = 0;
  #turn: ReturnType<typeof setImmediate> | undefined;
  #closed = false;

  /**
   * Binds a socket.
   *
   * @throws {Error} when the address cannot be bound, or certificates or key cannot be used
   */
  constructor(options: BindOptions | CarrierOptions) {
    if ("carrier" in options) this.socket = this.#open(options.carrier);
    else {
      const { hostname, port, listen } = options;
      if (listen) this.#listener = new Listener(listen, this);
      const maxDatagramBytes = MAX_RECEIVED_DATAGRAM_BYTES;
      this.socket = this.#open((events) =>
        new UdpSocket({ hostname, port, maxDatagramBytes }, events)
      );
    }
    this.#local = hostPort(this.addr);
  }

  /** Address the socket is bound to. */
  get addr(): Authority {
    return this.socket.addr;
  }

  /**
   * Adds a carrier, through which clients may connect, and go on if the one before is gone. It
   * leaves by itself when it is lost.
   *
   * @param open opens the carrier, whose datagrams come from the address of the client
   */
  attach(open: OpenDatagramSocket): DatagramSocket {
    const carrier = this.#open(open, MAX_DETACHED_MS);
    this.#carriers.add(carrier);
    return carrier;
  }

  /** Carriers that connections of clients go through which have authenticated themselves. */
  get carriersInUse(): ReadonlySet<DatagramSocket> {
    const inUse = new Set<DatagramSocket>();
    for (const { isEstablished, closeInfo, remoteAddr: { socket } } of this.#keys.keys()) {
      if (socket.isCarrier && isEstablished && !closeInfo) inUse.add(socket);
    }
    return inUse;
  }

  /**
   * Opens a socket that reports to this endpoint.
   *
   * @param waitMs how long connections wait for another carrier when this one is gone
   */
  #open(open: OpenDatagramSocket, waitMs = 0): DatagramSocket {
    const socket: DatagramSocket = open({
      datagram: (bytes, from) => this.#datagram(bytes, from, socket),
      sendError: () => this.drop("send-error"),
      refused: (bytes) => {
        for (const connection of this.#keys.keys()) connection.refused(bytes);
      },
      writable: () => this.#writable(socket),
      replaced: () => {
        for (const connection of this.#through(socket)) connection.reattached();
      },
      lost: () => {
        this.#carriers.delete(socket);
        this.#starved.delete(socket);
        for (const connection of this.#through(socket)) connection.detached(socket, waitMs);
      },
    });
    return socket;
  }

  #through(socket: DatagramSocket): QuicConnection[] {
    return [...this.#keys.keys()].filter(({ remoteAddr }) => remoteAddr.socket === socket);
  }

  #writable(socket: DatagramSocket): void {
    const starved = this.#starved.get(socket);
    if (!starved) return;
    this.#starved.delete(socket);
    for (const connection of starved) this.schedule(connection);
  }

  get stats(): EndpointStats {
    return {
      received: this.#receivedCount,
      dropped: { ...this.#dropped },
      retries: this.#listener?.retries ?? 0,
      halfOpen: this.#listener?.halfOpen ?? 0,
    };
  }

  /**
   * The next connection whose client has authenticated itself.
   *
   * @throws {ConnectionClosedError} when the endpoint is closed
   * @throws {TypeError} when the endpoint does not listen
   */
  accept(): Promise<QuicConnection> {
    return this.#listener?.accept() ??
      Promise.reject(new TypeError("the endpoint does not listen"));
  }

  /**
   * Connects to a server, verifying its certificate, and resolves when the server has accepted this
   * end's too.
   *
   * @param peer IP address and port of the server
   * @param serverName name that the server's certificate must have, sent as SNI; or IP address
   * @throws {ConnectionClosedError} when the handshake fails, in its `info` by whom and why
   * @throws the signal's reason when it aborts first
   */
  async connect(
    peer: Authority,
    serverName: string,
    options: TransportOptions,
    signal?: AbortSignal,
  ): Promise<QuicConnection> {
    try {
      return await this.#tryConnect(peer, serverName, options, signal);
    } catch (error) {
      const again = error instanceof ConnectionClosedError && !signal?.aborted &&
        mayRetry(options.tls, error.info, peer, error.peerCertificates);
      if (!again) throw error;
    }
    return await this.#tryConnect(peer, serverName, options, signal);
  }

  async #tryConnect(
    peer: Authority,
    serverName: string,
    options: TransportOptions,
    signal?: AbortSignal,
  ): Promise<QuicConnection> {
    signal?.throwIfAborted();
    if (this.#closed) throw new ConnectionClosedError(ENDPOINT_CLOSED);
    const settings = transportSettings(options);
    // quiche would compare an address with DNS names, and send it as SNI (RFC 6066, section 3).
    const serverAddress = isIpAddress(serverName) ? serverName : undefined;
    const scid = new Uint8Array(randomBytes(CONNECTION_ID_BYTES));
    const connection = this.start(
      "client",
      scid,
      { ...peer, socket: this.socket },
      settings,
      (local, peer, maxDatagramBytes) =>
        quiche.Connection.connect(
          serverAddress === undefined ? serverName : null,
          scid,
          local,
          peer,
          nativeConfig(settings, maxDatagramBytes, identityOf(settings.tls, peer.host)),
        ),
      serverAddress,
    );
    this.schedule(connection);
    const onAbort = () => connection.close(0, "connecting was aborted");
    signal?.addEventListener("abort", onAbort);
    // Else a closed port is noticed when something is sent again.
    const timer = setInterval(() => this.socket.noticeErrors(), NOTICE_ERRORS_MS);
    try {
      await connection.confirmed;
      return connection;
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener("abort", onAbort);
      clearInterval(timer);
    }
  }

  /**
   * Closes every connection, tells the peers, and frees the socket.
   *
   * @param code application error code
   * @param reason shown to the peers
   */
  async close(code = 0, reason = ""): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const connection of this.#keys.keys()) {
      connection.close(code, reason);
      connection.flush();
    }
    this.#listener?.close(new ConnectionClosedError(ENDPOINT_CLOSED));
    for (const connection of [...this.#keys.keys()]) connection.destroy(ENDPOINT_CLOSED.reason);
    clearImmediate(this.#turn);
    await Promise.all([this.socket, ...this.#carriers].map((socket) => socket.close()));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** @internal */
  schedule(connection: QuicConnection): void {
    this.#dirty.add(connection);
    this.#turn ??= setImmediate(() => this.#endTurn());
  }

  /** @internal */
  starved(connection: QuicConnection, socket: DatagramSocket): void {
    const starved = this.#starved.get(socket);
    if (starved) starved.add(connection);
    else this.#starved.set(socket, new Set([connection]));
  }

  #endTurn(): void {
    this.#turn = undefined;
    if (this.#closed) return;
    const dirty = [...this.#dirty];
    this.#dirty.clear();
    for (const connection of dirty) connection.flush();
  }

  /** @internal */
  established(connection: QuicConnection): void {
    if (connection.role === "server") this.#listener?.established(connection);
  }

  /** @internal */
  closed(connection: QuicConnection, info: CloseInfo): void {
    if (connection.role === "client" || connection.isEstablished) return;
    this.#listener?.failed(connection, info);
  }

  /** @internal */
  drained(connection: QuicConnection): void {
    this.#dirty.delete(connection);
    for (const starved of this.#starved.values()) starved.delete(connection);
    this.#received.delete(connection);
    if (this.#last?.connection === connection) this.#last = undefined;
    this.#connections.delete(this.#keys.get(connection)!);
    this.#keys.delete(connection);
  }

  /** @internal */
  find(cid: Uint8Array): QuicConnection | undefined {
    return this.#connections.get(connectionIdKey(cid));
  }

  /** @internal */
  start(
    role: "client" | "server",
    cid: Uint8Array,
    peer: PeerLocation,
    settings: TransportSettings,
    open: (local: HostPort, peer: HostPort, maxDatagramBytes: number) => NativeConnection,
    serverAddress?: string,
  ): QuicConnection {
    const maxDatagramBytes = this.#maxDatagramBytes(peer, settings);
    const [from, to] = [this.#local, hostPort(peer)];
    const native = open(from, to, maxDatagramBytes);
    const connection = new QuicConnection({
      role,
      host: this,
      native,
      settings,
      addresses: { from: to, to: from },
      peer,
      maxDatagramBytes,
      serverAddress,
    });
    const key = connectionIdKey(cid);
    this.#connections.set(key, connection);
    this.#keys.set(connection, key);
    return connection;
  }

  /** @internal */
  drop(reason: DropReason): undefined {
    this.#dropped[reason]++;
  }

  #datagram(bytes: Uint8Array, from: Authority, socket: DatagramSocket): void {
    this.#receivedCount++;
    const connection = this.#route(bytes, from, socket);
    if (!connection) return;
    const reason = this.#listener?.refusal(connection, bytes.length, from, socket);
    if (reason) return this.drop(reason);
    if (this.#received.size === 0) {
      this.#receivedAt = performance.now();
      queueMicrotask(() => this.#dispatch());
    }
    connection.receive(bytes, from, socket, this.#receivedAt);
    this.#received.add(connection);
  }

  #dispatch(): void {
    const received = [...this.#received];
    this.#received.clear();
    for (const connection of received) connection.dispatch();
  }

  #route(
    bytes: Uint8Array,
    from: Authority,
    socket: DatagramSocket,
  ): QuicConnection | undefined {
    if (bytes.length === 0) return this.drop("invalid");
    if (!hasLongHeader(bytes)) {
      if (bytes.length <= CONNECTION_ID_BYTES) return this.drop("invalid");
      return this.#findShort(bytes) ?? this.#unknown(bytes, from, socket);
    }
    const header = parseLongHeader(bytes);
    if (!header) return this.drop("invalid");
    const known = this.find(header.dcid);
    if (known) return known;
    return this.#listener
      ? this.#listener.begin(bytes, header, locate(from, socket))
      : this.drop("unknown-connection");
  }

  /** The connection of a packet with a short header (RFC 9000 §17.3). */
  #findShort(bytes: Uint8Array): QuicConnection | undefined {
    if (this.#last && hasBytesAt(bytes, 1, this.#last.cid)) return this.#last.connection;
    const cid = bytes.slice(1, 1 + CONNECTION_ID_BYTES);
    const connection = this.find(cid);
    if (connection) this.#last = { cid, connection };
    return connection;
  }

  /** Takes notice of a packet that leads to no connection, as after the end of either program. */
  #unknown(bytes: Uint8Array, from: Authority, socket: DatagramSocket): undefined {
    this.drop("unknown-connection");
    if (this.#listener) return this.#listener.reset(bytes, locate(from, socket));
    for (const connection of this.#keys.keys()) connection.receiveReset(bytes);
  }

  /** @internal */
  localAddr(peer: Authority): Authority | undefined {
    const { hostname, port } = this.addr;
    if (!isUnspecified(hostname)) return { hostname, port };
    const source = sourceHostname(peer);
    return source === undefined ? undefined : { hostname: source, port };
  }

  /**
   * What may be sent to a peer at most. Where the system would cut datagrams to pieces, nothing is
   * tried.
   */
  #maxDatagramBytes({ socket, ...peer }: PeerLocation, { mtu }: TransportSettings): number {
    const bytes = mtu > 0 && !socket.isCarrier
      ? mtu - headerBytes(peer)
      : socket.maxDatagramBytes(peer) ?? BASE_DATAGRAM_BYTES;
    return Math.min(Math.max(bytes, MIN_DATAGRAM_BYTES), MAX_DATAGRAM_BYTES);
  }
}

/** How long a client may take to come back through another carrier when its own is gone. */
const MAX_DETACHED_MS = 2_000;

/** Interval of looks whether the port of a server is closed. */
const NOTICE_ERRORS_MS = 50;

const isUnspecified = (hostname: string) => ["0.0.0.0", "::"].includes(hostname);

const ENDPOINT_CLOSED = {
  by: "local",
  application: true,
  code: 0,
  reason: "the endpoint is closed",
} as const;
