// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../net/authority.ts";
import type { QuicConnection } from "./connection.ts";
import type { DatagramSocket, PeerLocation } from "./datagram_socket.ts";
import type { DropReason } from "./endpoint_stats.ts";
import type { CloseInfo, ConnectionClosedError } from "./errors.ts";
import { HalfOpen } from "./handshake/half_open.ts";
import {
  CONNECTION_ID_BYTES,
  initialToken,
  type LongHeader,
  MIN_INITIAL_DATAGRAM_BYTES,
  MIN_INITIAL_DCID_BYTES,
} from "./handshake/packet.ts";
import { RateLimit } from "./handshake/rate_limit.ts";
import { resetBytes, resetToken, writeReset } from "./handshake/stateless_reset.ts";
import { AddressValidator } from "./handshake/token.ts";
import {
  identityOf,
  mayRetry,
  nativeConfig,
  type TlsIdentity,
  type TransportOptions,
  type TransportSettings,
  transportSettings,
} from "./options.ts";
import { BASE_DATAGRAM_BYTES } from "./path/path_mtu.ts";
import { isAt } from "./path/peer_address.ts";
import {
  type HostPort,
  type NativeConfig,
  type NativeConnection,
  quiche,
} from "./quiche/native.ts";

/** How an endpoint takes connections. */
export interface ListenOptions extends TransportOptions {
  /**
   * Handshakes under way, or failed in the last second, from which on clients have to prove their
   * address first (Retry).
   *
   * @default {100}
   */
  readonly retryAfterHalfOpen?: number;
  /**
   * Handshakes under way, or failed in the last second, at most; further ones are not answered.
   *
   * @default {1000}
   */
  readonly maxHalfOpen?: number;
  /**
   * Those of one IPv4 address, or one IPv6 network of 64 bits, at most; never more than are left
   * for all others.
   *
   * @default {250}
   */
  readonly maxHalfOpenPerAddress?: number;
  /**
   * Bytes received in them at most, of one address never more than are left; further ones are
   * dropped.
   *
   * @default {4194304}
   */
  readonly maxHalfOpenBytes?: number;
  /**
   * Retry and Version Negotiation packets sent in a second at most, and as many stateless resets.
   *
   * @default {2000}
   */
  readonly maxAnswersPerSecond?: number;
  /** Established connections that may wait for `QuicEndpoint.accept`. @default {1000} */
  readonly maxAcceptQueue?: number;
  /**
   * Told of each handshake that a client began and did not complete.
   *
   * @param certificates what the client had shown until then, DER, leaf first
   */
  readonly handshakeFailed?: (
    info: CloseInfo,
    from: Authority,
    certificates: Uint8Array[] | null,
  ) => void;
}

const defaults = {
  retryAfterHalfOpen: 100,
  maxHalfOpen: 1000,
  maxHalfOpenPerAddress: 250,
  maxHalfOpenBytes: 4 << 20,
  maxAnswersPerSecond: 2000,
  maxAcceptQueue: 1000,
};

/** Room for an answer to a packet that belongs to no connection. */
const MAX_ANSWER_BYTES = 1500;

/** In place of the addresses of clients that come through a carrier. */
const CARRIER: Authority = { hostname: "carrier", port: 0 };

/** What a listener needs of its endpoint. */
export interface ListenerHost {
  /** The connection that a connection id leads to. */
  find(cid: Uint8Array): QuicConnection | undefined;
  /** Makes the connection of a client, which its connection id leads to from then on. */
  start(
    role: "server",
    cid: Uint8Array,
    peer: PeerLocation,
    settings: TransportSettings,
    open: (local: HostPort, peer: HostPort, maxDatagramBytes: number) => NativeConnection,
  ): QuicConnection;
  /** The address that a client is answered from; undefined where that is not known. */
  localAddr(peer: Authority): Authority | undefined;
  /** Counts a datagram that is dropped. */
  drop(reason: DropReason): undefined;
}

interface Waiter {
  resolve(connection: QuicConnection): void;
  reject(error: Error): void;
}

/**
 * Takes the connections that clients begin: bounds what strangers cost until they have
 * authenticated themselves, and keeps those that have until they are accepted.
 */
export class Listener {
  readonly #host: ListenerHost;
  readonly #options: ListenOptions & typeof defaults;
  readonly #settings: TransportSettings;
  readonly #validator = new AddressValidator();
  readonly #halfOpen: HalfOpen<QuicConnection>;
  readonly #answers: RateLimit;
  /** Of stateless resets. */
  readonly #resets: RateLimit;
  readonly #queue: QuicConnection[] = [];
  readonly #waiters: Waiter[] = [];
  /** By what they are made of, and the size of the largest datagrams that will be sent. */
  readonly #configs = new WeakMap<TlsIdentity, Map<number, NativeConfig>>();
  #retries = 0;
  #closed: Error | undefined;

  /** @throws {Error} when certificates or key cannot be used */
  constructor(options: ListenOptions, host: ListenerHost) {
    this.#host = host;
    this.#options = { ...defaults, ...options };
    this.#settings = transportSettings(options);
    const { maxHalfOpen, maxHalfOpenPerAddress, maxHalfOpenBytes, maxAnswersPerSecond } =
      this.#options;
    this.#halfOpen = new HalfOpen({
      maxHandshakes: maxHalfOpen,
      maxPerAddress: maxHalfOpenPerAddress,
      maxBytes: maxHalfOpenBytes,
    });
    this.#answers = new RateLimit(maxAnswersPerSecond);
    this.#resets = new RateLimit(maxAnswersPerSecond);
    this.#configFor(BASE_DATAGRAM_BYTES);
  }

  /** Handshakes under way. */
  get halfOpen(): number {
    return this.#halfOpen.size;
  }

  /** Retry packets sent so far. */
  get retries(): number {
    return this.#retries;
  }

  /**
   * The next connection whose client has authenticated itself.
   *
   * @throws what {@linkcode close} is given
   */
  accept(): Promise<QuicConnection> {
    for (let next = this.#queue.shift(); next; next = this.#queue.shift()) {
      if (!next.closeInfo) return Promise.resolve(next);
    }
    if (this.#closed) return Promise.reject(this.#closed);
    return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }));
  }

  /** Takes no further connections, and nobody waits for one any more. */
  close(error: ConnectionClosedError): void {
    this.#closed = error;
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error);
  }

  /** A client has authenticated itself. */
  established(connection: QuicConnection): void {
    this.#halfOpen.complete(connection);
    const waiter = this.#waiters.shift();
    if (waiter) waiter.resolve(connection);
    else if (this.#queue.length < this.#options.maxAcceptQueue) this.#queue.push(connection);
    else {
      this.#host.drop("busy");
      connection.close(0, "too many connections");
    }
  }

  /** A handshake has failed. */
  failed(connection: QuicConnection, info: CloseInfo): void {
    this.#halfOpen.fail(connection);
    const { remoteAddr, peerCertificates } = connection;
    mayRetry(this.#options.tls, info, remoteAddr, peerCertificates);
    this.#options.handshakeFailed?.(info, remoteAddr, peerCertificates);
  }

  /**
   * Why a connection may not take in a datagram of so many bytes; undefined when it may.
   *
   * Until its handshake is complete, only the address that began it counts (RFC 9000 §9). quiche is
   * told of one address, and takes the bytes of every other one for this one's: they would add to
   * what may be sent there unproven, and to what others see as its share.
   */
  refusal(
    connection: QuicConnection,
    bytes: number,
    from: Authority,
    socket: DatagramSocket,
  ): DropReason | undefined {
    if (connection.isEstablished || connection.role === "client") return undefined;
    if (!isAt(connection.remoteAddr, from, socket)) return "other-address";
    return this.#halfOpen.receive(connection, bytes) ? undefined : "address-limit";
  }

  /**
   * The connection that a packet for an unknown connection id begins, or belongs to by its first
   * id.
   */
  begin(bytes: Uint8Array, header: LongHeader, from: PeerLocation): QuicConnection | undefined {
    if (this.#closed) return this.#host.drop("unknown-connection");
    if (bytes.length < MIN_INITIAL_DATAGRAM_BYTES || header.version === 0) {
      return this.#host.drop("invalid");
    }
    if (!quiche.versionIsSupported(header.version)) return this.#negotiateVersion(header, from);
    if (!header.initial) return this.#host.drop("unknown-connection");
    if (header.dcid.length < MIN_INITIAL_DCID_BYTES) return this.#host.drop("invalid");
    const token = initialToken(bytes, header);
    if (!token) return this.#host.drop("invalid");
    const hasToken = token.length > 0;
    const cid = hasToken
      ? header.dcid.slice()
      : this.#validator.connectionIdFor(header.dcid, CONNECTION_ID_BYTES);
    const known = hasToken ? undefined : this.#host.find(cid);
    if (known) return known;
    const verdict = this.#halfOpen.judge(from.hostname, bytes.length);
    if (verdict !== "yes") {
      return this.#host.drop(verdict === "too many" ? "busy" : "address-limit");
    }
    let originalDcid: Uint8Array | null = null;
    if (hasToken) {
      originalDcid = this.#validator.redeem(token, from, header.dcid) ?? null;
      if (!originalDcid) return this.#host.drop("bad-token");
    } else if (this.#halfOpen.recent >= this.#options.retryAfterHalfOpen) {
      return this.#retry(header, cid, from);
    }
    const connection = this.#host.start(
      "server",
      cid,
      from,
      this.#settings,
      (local, peer, maxDatagramBytes) => {
        const config = this.#configFor(maxDatagramBytes, from.hostname);
        // A connection takes it over when it is made.
        const token = this.#resetToken(cid, from);
        config.setStatelessResetToken(token && BigInt(`0x${token.toHex()}`));
        return quiche.Connection.accept(cid, originalDcid, local, peer, config);
      },
    );
    this.#halfOpen.add(connection, from.hostname);
    return connection;
  }

  /**
   * Answers a packet with a short header for an unknown connection id: if a server was killed at
   * this address, its client learns that the connection is gone (stateless reset, RFC 9000 §10.3).
   */
  reset(bytes: Uint8Array, from: PeerLocation): undefined {
    const length = resetBytes(bytes.length);
    if (length === undefined || this.#closed || !this.#resets.take()) return;
    const cid = bytes.subarray(1, 1 + CONNECTION_ID_BYTES);
    const token = this.#resetToken(cid, from);
    if (!token) return;
    this.#answer(from, (out) => {
      writeReset(out.subarray(0, length), token);
      return length;
    });
  }

  #resetToken(cid: Uint8Array, peer: PeerLocation): Uint8Array | undefined {
    const { key } = identityOf(this.#options.tls);
    // A client comes back through another carrier, from another port.
    if (peer.socket.isCarrier) return resetToken(key, { cid, local: CARRIER, peer: CARRIER });
    const local = this.#host.localAddr(peer);
    return local && resetToken(key, { cid, local, peer });
  }

  /**
   * The configuration for a handshake that starts now: certificates and key may have been replaced.
   */
  #configFor(maxDatagramBytes: number, hostname?: string): NativeConfig {
    const identity = identityOf(this.#options.tls, hostname);
    let configs = this.#configs.get(identity);
    if (!configs) this.#configs.set(identity, configs = new Map());
    let config = configs.get(maxDatagramBytes);
    if (!config) {
      config = nativeConfig(this.#settings, maxDatagramBytes, identity);
      configs.set(maxDatagramBytes, config);
    }
    return config;
  }

  #negotiateVersion(header: LongHeader, to: PeerLocation): undefined {
    if (!this.#answers.take()) return this.#host.drop("answer-limit");
    this.#answer(to, (out) => quiche.negotiateVersion(header.scid, header.dcid, out));
  }

  #retry(header: LongHeader, cid: Uint8Array, to: PeerLocation): undefined {
    if (!this.#answers.take()) return this.#host.drop("answer-limit");
    this.#retries++;
    const token = this.#validator.mint(to, cid, header.dcid);
    this.#answer(
      to,
      (out) => quiche.retry(header.scid, header.dcid, cid, token, header.version, out),
    );
  }

  /** Sends a stateless answer, if there is room for it. */
  #answer(to: PeerLocation, write: (out: Uint8Array) => number): void {
    const { socket } = to;
    const buffer = socket.reserve(MAX_ANSWER_BYTES);
    if (!buffer) return;
    try {
      socket.commit(write(buffer), to);
      socket.flush();
    } catch {
      // There is nothing to be said to such a packet.
    }
  }
}
