// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Listeners for TLS whose clients present no certificate. Nagle's algorithm is off.
 *
 * `Deno.listenTls` is up to twice as fast as `node:tls`, but it leaves nothing to be read ahead of
 * TLS, counts no bytes of a handshake, which rustls bounds by itself, and goes on with a handshake or
 * a write after `close()`, unless the connection is reset.
 */
import { messageOf } from "../errors.ts";
import { type SocketAddress, socketAddressOf } from "../net/ip_address.ts";
import { libc, nextDescriptor } from "../net/libc.ts";
import { setCarrierOptions } from "../net/tcp_carrier.ts";
import { setAcceptedCarrierOptions } from "../net/tcp_listener.ts";
import { descriptorOf, resetTls } from "../net/tcp_reset.ts";
import type { TlsIdentity } from "../quic/mod.ts";
import type { Duplex } from "../tunnel/duplex.ts";
import { tlsDuplex } from "../tunnel/tls_duplex.ts";
import { acceptedTcpDuplexes } from "../tunnel/tcp_duplex.ts";
import { acceptTls, HandshakeError, ServerContext, servesStreams } from "./tls_carrier.ts";

/** A connection on which TLS is to be established. */
export interface TlsIncoming {
  readonly remote: SocketAddress;
  readonly local: SocketAddress;
  /** The connection below TLS. */
  readonly raw: Duplex;
  /**
   * Does the server's part of the handshake. Without a time limit: abort `raw` to end it.
   *
   * @param carrier `raw` without what came ahead of TLS
   * @param received is told how many bytes have come; throws to end the handshake
   * @throws {HandshakeError} when the client does not finish the handshake
   */
  secure(carrier: Duplex, received: (bytes: number) => void): Promise<Duplex>;
}

export interface TlsListener extends Disposable {
  readonly addr: Deno.NetAddr;
  /** @throws as `accept` of a `Deno.Listener` */
  accept(): Promise<TlsIncoming>;
}

export interface TlsListenOptions {
  readonly hostname: string;
  readonly port: number;
  readonly tcpBacklog: number;
  /** Certificates and key, as they are at the start of a handshake. */
  readonly identity: () => TlsIdentity;
}

/** How often it is looked whether a listener needs other certificates. */
const REFRESH_MS = 1_000;

/** ALPN protocol names (RFC 7301). */
const ALPN = ["http/1.1"];

/**
 * Listens for TLS.
 *
 * @param hasHeaders whether something may come ahead of TLS; not before Deno 2.9
 * @throws as `Deno.listen`, and what the TLS library does when it cannot use certificates or key
 */
export function listenTls(options: TlsListenOptions, hasHeaders: boolean): TlsListener {
  const canReset = libc !== undefined;
  return servesStreams() && (hasHeaders || !canReset)
    ? new StreamTlsListener(options)
    : new DenoTlsListener(options);
}

class StreamTlsListener implements TlsListener {
  readonly #listener: Deno.TcpListener;
  readonly #identity: () => TlsIdentity;
  readonly #open: (connection: Deno.TcpConn) => Duplex;
  readonly #contexts = new WeakMap<TlsIdentity, ServerContext>();

  constructor({ identity, ...options }: TlsListenOptions) {
    this.#identity = identity;
    this.#listener = Deno.listen(options);
    this.#open = acceptedTcpDuplexes(this.#listener, 0);
  }

  get addr(): Deno.NetAddr {
    return this.#listener.addr as Deno.NetAddr;
  }

  async accept(): Promise<TlsIncoming> {
    const connection = await this.#listener.accept();
    const fd = descriptorOf(connection);
    if (fd !== undefined) setCarrierOptions(fd);
    return incoming(connection, () => ({
      raw: this.#open(connection),
      secure: (carrier, received) => acceptTls(carrier, { context: this.#context(), received }),
    }));
  }

  #context(): ServerContext {
    const identity = this.#identity();
    let context = this.#contexts.get(identity);
    if (!context) {
      context = new ServerContext(identity, { asksClients: false, alpn: ALPN });
      this.#contexts.set(identity, context);
    }
    return context;
  }

  [Symbol.dispose](): void {
    this.#listener.close();
  }
}

class DenoTlsListener implements TlsListener {
  readonly #options: TlsListenOptions;
  #identity: TlsIdentity;
  #listener: Deno.TlsListener;
  #isClosed = false;
  readonly #timer = setInterval(() => {
    try {
      this.#refresh();
    } catch {
      // accept() tries again, and reports what is not due to its own wait.
    }
  }, REFRESH_MS);
  readonly addr: Deno.NetAddr;

  constructor(options: TlsListenOptions) {
    this.#options = options;
    this.#identity = options.identity();
    this.#listener = this.#listen(options.port);
    this.addr = this.#listener.addr as Deno.NetAddr;
  }

  async accept(): Promise<TlsIncoming> {
    for (;;) {
      this.#refresh();
      const listener = this.#listener;
      let connection: Deno.TlsConn;
      try {
        connection = await listener.accept();
      } catch (error) {
        if (listener === this.#listener && !this.#isStale) throw error;
        continue;
      }
      const next = nextDescriptor();
      return incoming(connection, () => {
        const raw = tlsDuplex(connection, () => resetTls(connection, next));
        return { raw, secure: () => handshake(connection, raw) };
      });
    }
  }

  /** Whether certificates or key have been replaced. */
  get #isStale(): boolean {
    return !this.#isClosed && this.#options.identity() !== this.#identity;
  }

  /**
   * Listens anew when certificates or key have been replaced. Connections in the queue are reset, and
   * their clients come again.
   *
   * @throws {Deno.errors.AddrInUse} while an `accept()` waits, which ends then: it holds the port
   */
  #refresh(): void {
    if (!this.#isStale) return;
    const identity = this.#options.identity();
    try {
      this.#listener.close();
    } catch {
      // The last attempt has closed it, and could not listen.
    }
    this.#listener = this.#listen(this.addr.port);
    this.#identity = identity;
  }

  #listen(port: number): Deno.TlsListener {
    const text = (pem: Uint8Array) => new TextDecoder().decode(pem);
    const { hostname, tcpBacklog } = this.#options;
    const { cert, key } = this.#options.identity();
    const listener = Deno.listenTls({
      hostname,
      port,
      tcpBacklog,
      cert: text(cert),
      key: text(key),
      alpnProtocols: ALPN,
    });
    setAcceptedCarrierOptions(listener);
    return listener;
  }

  [Symbol.dispose](): void {
    this.#isClosed = true;
    clearInterval(this.#timer);
    this.#listener.close();
  }
}

/** @throws {HandshakeError} when the client does not finish it */
async function handshake(connection: Deno.TlsConn, raw: Duplex): Promise<Duplex> {
  try {
    await connection.handshake();
    return raw;
  } catch (error) {
    const hasLeft = error instanceof Deno.errors.UnexpectedEof ||
      error instanceof Deno.errors.ConnectionReset;
    throw new HandshakeError(hasLeft ? "closed" : "failed", messageOf(error));
  }
}

/** @throws {Deno.errors.ConnectionAborted} when the client is gone already */
function incoming(
  connection: Deno.TcpConn | Deno.TlsConn,
  open: () => Pick<TlsIncoming, "raw" | "secure">,
): TlsIncoming {
  try {
    const { remoteAddr, localAddr } = connection;
    return { remote: socketAddressOf(remoteAddr)!, local: socketAddressOf(localAddr)!, ...open() };
  } catch (cause) {
    connection.close();
    throw new Deno.errors.ConnectionAborted(messageOf(cause), { cause });
  }
}
