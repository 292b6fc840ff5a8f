// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Listeners for TLS whose clients present no certificate. Nagle's algorithm is off.
 *
 * Where `node:tls` cannot be a server on a stream, which is so before Deno 2.9, `Deno.listenTls` takes
 * its place. It leaves nothing to be read ahead of TLS, and counts no bytes of a handshake, which it
 * bounds by itself.
 */
import { messageOf } from "../errors.ts";
import { type SocketAddress, socketAddressOf } from "../net/ip_address.ts";
import { setNoDelay } from "../net/tcp_listener.ts";
import type { TlsIdentity } from "../quic/mod.ts";
import type { Duplex } from "../tunnel/duplex.ts";
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

/** ALPN protocol names (RFC 7301). */
const ALPN = ["http/1.1"];

/** @throws as `Deno.listen`, and what the TLS library does when it cannot use certificates or key */
export function listenTls(options: TlsListenOptions): TlsListener {
  return servesStreams() ? new StreamTlsListener(options) : new DenoTlsListener(options);
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
  readonly addr: Deno.NetAddr;

  constructor(options: TlsListenOptions) {
    this.#options = options;
    this.#identity = options.identity();
    this.#listener = this.#listen(options.port);
    this.addr = this.#listener.addr as Deno.NetAddr;
  }

  async accept(): Promise<TlsIncoming> {
    const identity = this.#options.identity();
    if (identity !== this.#identity) {
      // Its certificate is fixed. Connections in its queue are reset, and their clients come again.
      this.#listener.close();
      this.#listener = this.#listen(this.addr.port);
      this.#identity = identity;
    }
    const connection = await this.#listener.accept();
    return incoming(connection, () => {
      const raw = tlsDuplex(connection);
      const secure = async () => {
        try {
          await connection.handshake();
        } catch (error) {
          const isEnd = error instanceof Deno.errors.UnexpectedEof;
          throw new HandshakeError(isEnd ? "closed" : "failed", messageOf(error));
        }
        return raw;
      };
      return { raw, secure };
    });
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
    setNoDelay(listener);
    return listener;
  }

  [Symbol.dispose](): void {
    this.#listener.close();
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

/** A connection of TLS as a {@linkcode Duplex}; there are no resets. */
function tlsDuplex(connection: Deno.TlsConn): Duplex {
  let closed = false;
  const close = () => {
    if (!closed) connection.close();
    closed = true;
  };
  return {
    read: (buffer) => connection.read(buffer),
    write: (bytes) => connection.write(bytes),
    closeWrite: () => connection.closeWrite(),
    abort: close,
    // deno-lint-ignore require-await
    async [Symbol.asyncDispose]() {
      close();
    },
  };
}
