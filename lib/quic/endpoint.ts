// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { randomBytes } from "node:crypto";
import { clearImmediate, setImmediate } from "node:timers";
import { RateLimit } from "./handshake/rate_limit.ts";
import { type ConnectionHost, QuicConnection } from "./connection.ts";
import { type CloseInfo, ConnectionClosedError } from "./errors.ts";
import { HalfOpen } from "./handshake/half_open.ts";
import { type HostPort, type NativeConfig, quiche } from "./quiche/native.ts";
import {
  identityOf,
  MAX_RECEIVED_DATAGRAM_BYTES,
  nativeConfig,
  type TlsIdentity,
  type TransportOptions,
  type TransportSettings,
  transportSettings,
} from "./options.ts";
import {
  CONNECTION_ID_BYTES,
  connectionIdKey,
  hasLongHeader,
  initialToken,
  type LongHeader,
  MIN_INITIAL_DATAGRAM_BYTES,
  MIN_INITIAL_DCID_BYTES,
  parseLongHeader,
} from "./handshake/packet.ts";
import { BASE_DATAGRAM_BYTES, MAX_DATAGRAM_BYTES, MIN_DATAGRAM_BYTES } from "./path/path_mtu.ts";
import { AddressValidator } from "./handshake/token.ts";
import { UdpSocket } from "./udp/socket.ts";
import { headerBytes, routePayloadBytes } from "./udp/batch.ts";

/** How an endpoint takes connections. */
export interface ListenOptions extends TransportOptions {
  /** Handshakes under way, or failed in the last second, from which on clients have to prove their address first (Retry). @default {100} */
  readonly retryAfterHalfOpen?: number;
  /** Handshakes under way, or failed in the last second, at most; further ones are not answered. @default {1000} */
  readonly maxHalfOpen?: number;
  /**
   * Those of one IPv4 address, or one IPv6 network of 64 bits, at most; never more than are left for all others.
   *
   * @default {250}
   */
  readonly maxHalfOpenPerAddress?: number;
  /** Bytes received in them at most, of one address never more than are left; further ones are dropped. @default {4194304} */
  readonly maxHalfOpenBytes?: number;
  /** Retry and Version Negotiation packets sent in a second at most. @default {2000} */
  readonly maxAnswersPerSecond?: number;
  /** Established connections that may wait for {@linkcode QuicEndpoint.accept}. @default {1000} */
  readonly maxAcceptQueue?: number;
  /**
   * Told of each handshake that a client began and did not complete.
   *
   * @param certificates what the client had shown until then, DER, leaf first
   */
  readonly handshakeFailed?: (
    info: CloseInfo,
    from: HostPort,
    certificates: Uint8Array[] | null,
  ) => void;
}

export interface BindOptions {
  /** Address to bind, an IP address. */
  readonly hostname: string;
  /** UDP port, 0 for any. */
  readonly port: number;
  /** Takes connections with these options; without them, it only makes some. */
  readonly listen?: ListenOptions;
}

/** Datagrams since the endpoint was bound, and what was wrong with those that were dropped. */
export interface EndpointStats {
  received: number;
  /** Not QUIC, or a packet that cannot start a connection. */
  droppedInvalid: number;
  /** For a connection that is not, or no longer, here. */
  droppedUnknownConnection: number;
  /** Retry token forged, expired, used before, or of another address. */
  droppedToken: number;
  /** Too many handshakes under way, or connections waiting to be accepted. */
  droppedBusy: number;
  /** Of an address with its share of the handshakes under way, or of the bytes received in them. */
  droppedShare: number;
  /** To be answered by Retry or Version Negotiation, of which enough were sent. */
  droppedUnanswered: number;
  sentRetry: number;
  sentVersionNegotiation: number;
  /** Sends that the system refused (ENETUNREACH, EPERM, ENOBUFS); each cost its datagram. */
  sendErrors: number;
}

const listenDefaults = {
  retryAfterHalfOpen: 100,
  maxHalfOpen: 1000,
  maxHalfOpenPerAddress: 250,
  maxHalfOpenBytes: 4 << 20,
  maxAnswersPerSecond: 2000,
  maxAcceptQueue: 1000,
};

interface Listener {
  readonly options: ListenOptions & typeof listenDefaults;
  readonly settings: TransportSettings;
  /** By the size of the largest datagrams that will be sent. */
  readonly configs: Map<number, NativeConfig>;
  /** What `configs` were made of. */
  identity: TlsIdentity;
  readonly queue: QuicConnection[];
  readonly waiters: { resolve: (c: QuicConnection) => void; reject: (e: Error) => void }[];
  readonly halfOpen: HalfOpen<QuicConnection>;
  readonly answers: RateLimit;
}

/**
 * One UDP socket with any number of connections, told apart by connection id.
 *
 * Datagrams that arrive in one turn of the event loop are all handed in first; then streams learn what they have, and at
 * the end of the turn each connection concerned sends once.
 */
export class QuicEndpoint implements ConnectionHost, AsyncDisposable {
  /** @internal */
  readonly socket: UdpSocket;
  readonly stats: EndpointStats = {
    received: 0,
    droppedInvalid: 0,
    droppedUnknownConnection: 0,
    droppedToken: 0,
    droppedBusy: 0,
    droppedShare: 0,
    droppedUnanswered: 0,
    sentRetry: 0,
    sentVersionNegotiation: 0,
    sendErrors: 0,
  };
  readonly #local: HostPort;
  readonly #connections = new Map<string, QuicConnection>();
  readonly #keys = new Map<QuicConnection, string>();
  readonly #received = new Set<QuicConnection>();
  readonly #dirty = new Set<QuicConnection>();
  readonly #validator = new AddressValidator();
  readonly #listener: Listener | undefined;
  #turn: ReturnType<typeof setImmediate> | undefined;
  #closed = false;

  /**
   * Binds a socket.
   *
   * @throws {Error} when the address cannot be bound, or certificates or key cannot be used
   */
  constructor(options: BindOptions) {
    const { listen } = options;
    if (listen) {
      const settings = transportSettings(listen);
      const identity = identityOf(listen.tls);
      const options = { ...listenDefaults, ...listen };
      this.#listener = {
        options,
        settings,
        configs: new Map([[
          BASE_DATAGRAM_BYTES,
          nativeConfig({ ...settings, tls: identity }, BASE_DATAGRAM_BYTES),
        ]]),
        identity,
        queue: [],
        waiters: [],
        halfOpen: new HalfOpen({
          maxHandshakes: options.maxHalfOpen,
          maxPerAddress: options.maxHalfOpenPerAddress,
          maxBytes: options.maxHalfOpenBytes,
        }),
        answers: new RateLimit(options.maxAnswersPerSecond),
      };
    }
    this.socket = new UdpSocket(
      {
        hostname: options.hostname,
        port: options.port,
        maxDatagramBytes: MAX_RECEIVED_DATAGRAM_BYTES,
      },
      {
        datagram: (bytes, from) => this.#datagram(bytes, from),
        sendError: () => this.stats.sendErrors++,
        writable: () => {
          for (const connection of this.#keys.keys()) this.schedule(connection);
        },
      },
    );
    const { hostname, port } = this.addr;
    this.#local = { host: hostname, port };
  }

  /** Address the socket is bound to. */
  get addr(): Deno.NetAddr {
    return this.socket.addr;
  }

  /** Handshakes under way of connections that clients have started. */
  get halfOpen(): number {
    return this.#listener?.halfOpen.size ?? 0;
  }

  /**
   * The next connection whose client has authenticated itself.
   *
   * @throws {ConnectionClosedError} when the endpoint is closed
   * @throws {TypeError} when the endpoint does not listen
   */
  accept(): Promise<QuicConnection> {
    const listener = this.#listener;
    if (!listener) return Promise.reject(new TypeError("the endpoint does not listen"));
    for (let next = listener.queue.shift(); next; next = listener.queue.shift()) {
      if (!next.closeInfo) return Promise.resolve(next);
    }
    if (this.#closed) return Promise.reject(new ConnectionClosedError(ENDPOINT_CLOSED));
    return new Promise((resolve, reject) => listener.waiters.push({ resolve, reject }));
  }

  /**
   * Connects to a server, verifying its certificate, and resolves when the server has accepted this end's too.
   *
   * @param peer IP address and port of the server
   * @param serverName name that the server's certificate must have; sent as SNI
   * @throws {ConnectionClosedError} when the handshake fails, in its `info` by whom and why
   * @throws the signal's reason when it aborts first
   */
  async connect(
    peer: HostPort,
    serverName: string,
    options: TransportOptions,
    signal?: AbortSignal,
  ): Promise<QuicConnection> {
    signal?.throwIfAborted();
    if (this.#closed) throw new ConnectionClosedError(ENDPOINT_CLOSED);
    const settings = transportSettings(options);
    const scid = new Uint8Array(randomBytes(CONNECTION_ID_BYTES));
    const maxDatagramBytes = this.#maxDatagramBytes(peer, settings);
    const native = quiche.Connection.connect(
      serverName,
      scid,
      this.#local,
      peer,
      nativeConfig(settings, maxDatagramBytes),
    );
    const connection = new QuicConnection({
      role: "client",
      host: this,
      native,
      settings,
      local: this.#local,
      peer,
      maxDatagramBytes,
    });
    this.#add(connection, scid);
    this.schedule(connection);
    const onAbort = () => connection.close(0, "connecting was given up");
    signal?.addEventListener("abort", onAbort);
    try {
      await connection.confirmed;
      return connection;
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener("abort", onAbort);
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
    for (const waiter of this.#listener?.waiters.splice(0) ?? []) {
      waiter.reject(new ConnectionClosedError(ENDPOINT_CLOSED));
    }
    for (const connection of [...this.#keys.keys()]) connection.destroy(ENDPOINT_CLOSED.reason);
    clearImmediate(this.#turn);
    await this.socket.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** @internal */
  schedule(connection: QuicConnection): void {
    this.#dirty.add(connection);
    this.#turn ??= setImmediate(() => this.#endTurn());
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
    const listener = this.#listener;
    if (connection.role === "client" || !listener) return;
    listener.halfOpen.complete(connection);
    const waiter = listener.waiters.shift();
    if (waiter) waiter.resolve(connection);
    else if (listener.queue.length < listener.options.maxAcceptQueue) {
      listener.queue.push(connection);
    } else {
      this.stats.droppedBusy++;
      connection.close(0, "too many connections");
    }
  }

  /** @internal */
  closed(connection: QuicConnection, info: CloseInfo): void {
    const listener = this.#listener;
    if (connection.role === "client" || connection.isEstablished || !listener) return;
    listener.halfOpen.fail(connection);
    listener.options.handshakeFailed?.(info, connection.remoteAddr, connection.peerCertificates);
  }

  /** @internal */
  drained(connection: QuicConnection): void {
    this.#dirty.delete(connection);
    this.#received.delete(connection);
    this.#connections.delete(this.#keys.get(connection)!);
    this.#keys.delete(connection);
  }

  #add(connection: QuicConnection, cid: Uint8Array): void {
    const key = connectionIdKey(cid);
    this.#connections.set(key, connection);
    this.#keys.set(connection, key);
  }

  #datagram(bytes: Uint8Array, from: HostPort): void {
    this.stats.received++;
    const connection = this.#route(bytes, from);
    if (!connection) return;
    if (this.#listener && !this.#listener.halfOpen.receive(connection, bytes.length)) {
      return this.#drop("droppedShare");
    }
    connection.receive(bytes, from);
    if (this.#received.size === 0) queueMicrotask(() => this.#dispatch());
    this.#received.add(connection);
  }

  #dispatch(): void {
    const received = [...this.#received];
    this.#received.clear();
    for (const connection of received) connection.dispatch();
  }

  #route(bytes: Uint8Array, from: HostPort): QuicConnection | undefined {
    if (bytes.length === 0) return this.#drop("droppedInvalid");
    if (!hasLongHeader(bytes)) {
      if (bytes.length <= CONNECTION_ID_BYTES) return this.#drop("droppedInvalid");
      return this.#connections.get(connectionIdKey(bytes, 1, CONNECTION_ID_BYTES)) ??
        this.#drop("droppedUnknownConnection");
    }
    const header = parseLongHeader(bytes);
    if (!header) return this.#drop("droppedInvalid");
    return this.#connections.get(connectionIdKey(header.dcid)) ?? this.#accept(bytes, header, from);
  }

  #drop(counter: keyof EndpointStats & `dropped${string}`): undefined {
    this.stats[counter]++;
    return undefined;
  }

  /** The connection that a packet for an unknown connection id starts, or belongs to by its first id. */
  #accept(bytes: Uint8Array, header: LongHeader, from: HostPort): QuicConnection | undefined {
    const listener = this.#listener;
    if (!listener || this.#closed) return this.#drop("droppedUnknownConnection");
    if (bytes.length < MIN_INITIAL_DATAGRAM_BYTES || header.version === 0) {
      return this.#drop("droppedInvalid");
    }
    if (!quiche.versionIsSupported(header.version)) {
      return this.#negotiateVersion(listener, header, from);
    }
    if (!header.initial) return this.#drop("droppedUnknownConnection");
    if (header.dcid.length < MIN_INITIAL_DCID_BYTES) return this.#drop("droppedInvalid");
    const token = initialToken(bytes, header);
    if (!token) return this.#drop("droppedInvalid");
    const hasToken = token.length > 0;
    const cid = hasToken
      ? header.dcid.slice()
      : this.#validator.connectionIdFor(header.dcid, CONNECTION_ID_BYTES);
    const known = hasToken ? undefined : this.#connections.get(connectionIdKey(cid));
    if (known) return known;
    const verdict = listener.halfOpen.judge(from.host, bytes.length);
    if (verdict !== "yes") {
      return this.#drop(verdict === "too many" ? "droppedBusy" : "droppedShare");
    }
    let originalDcid = null;
    if (hasToken) {
      originalDcid = this.#validator.redeem(token, from, header.dcid);
      if (!originalDcid) return this.#drop("droppedToken");
    } else if (listener.halfOpen.recent >= listener.options.retryAfterHalfOpen) {
      return this.#retry(listener, header, cid, from);
    }
    const maxDatagramBytes = this.#maxDatagramBytes(from, listener.settings);
    const config = currentConfig(listener, maxDatagramBytes);
    const native = quiche.Connection.accept(cid, originalDcid, this.#local, from, config);
    const connection = new QuicConnection({
      role: "server",
      host: this,
      native,
      settings: listener.settings,
      local: this.#local,
      peer: from,
      maxDatagramBytes,
    });
    listener.halfOpen.add(connection, from.host);
    this.#add(connection, cid);
    return connection;
  }

  /** What may be sent to a peer at most. Where the system would cut datagrams to pieces, nothing is tried. */
  #maxDatagramBytes(peer: HostPort, { mtu }: TransportSettings): number {
    const route = mtu > 0
      ? mtu - headerBytes(peer)
      : this.socket.isBatching
      ? routePayloadBytes(peer)
      : undefined;
    const bytes = route ?? BASE_DATAGRAM_BYTES;
    return Math.min(Math.max(bytes, MIN_DATAGRAM_BYTES), MAX_DATAGRAM_BYTES);
  }

  #negotiateVersion({ answers }: Listener, header: LongHeader, to: HostPort): undefined {
    if (!answers.take()) return this.#drop("droppedUnanswered");
    this.stats.sentVersionNegotiation++;
    return this.#answer(to, (out) => quiche.negotiateVersion(header.scid, header.dcid, out));
  }

  #retry({ answers }: Listener, header: LongHeader, cid: Uint8Array, to: HostPort): undefined {
    if (!answers.take()) return this.#drop("droppedUnanswered");
    this.stats.sentRetry++;
    const token = this.#validator.mint(to, cid, header.dcid);
    return this.#answer(
      to,
      (out) => quiche.retry(header.scid, header.dcid, cid, token, header.version, out),
    );
  }

  /** Sends a stateless answer, if there is room for it. */
  #answer(to: HostPort, write: (out: Uint8Array) => number): undefined {
    const buffer = this.socket.reserve(MAX_ANSWER_BYTES);
    if (!buffer) return;
    try {
      this.socket.commit(write(buffer), to);
      this.socket.flush();
    } catch {
      // There is nothing to be said to such a packet.
    }
  }
}

/** The configuration for a handshake that starts now: certificates and key may have been replaced. */
function currentConfig(listener: Listener, maxDatagramBytes: number): NativeConfig {
  const { configs, settings } = listener;
  const identity = identityOf(listener.options.tls);
  if (identity !== listener.identity) {
    configs.clear();
    listener.identity = identity;
  }
  let config = configs.get(maxDatagramBytes);
  if (!config) {
    config = nativeConfig({ ...settings, tls: identity }, maxDatagramBytes);
    configs.set(maxDatagramBytes, config);
  }
  return config;
}

const ENDPOINT_CLOSED = {
  by: "local",
  application: true,
  code: 0,
  reason: "the endpoint is closed",
} as const;

/** Room for an answer to a packet that belongs to no connection. */
const MAX_ANSWER_BYTES = 1500;
