// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * TLS 1.2 and 1.3 at the server's end of a connection (RFC 5246, RFC 8446), by `node:tls`.
 *
 * `node:tls` gets a stream of its own in place of the socket. So the end of the TLS connection
 * (close_notify) and that of the TCP connection stay apart, which `node:tls` on a socket does not
 * tell, and it decrypts nothing that nobody waits for, which it would keep without limit.
 */
import { EventEmitter } from "node:events";
import { Duplex as NodeDuplex } from "node:stream";
import { createServer, type DetailedPeerCertificate, type Server, type TLSSocket } from "node:tls";
import { concat } from "@std/bytes/concat";
import { NO_BYTES } from "../bytes.ts";
import type { TlsIdentity } from "../quic/mod.ts";
import { type Duplex, writeAll } from "../tunnel/duplex.ts";
import { TunnelError } from "../tunnel/errors.ts";

/** What a client has presented in its handshake. */
export interface Presented {
  /**
   * Its certificates in DER, leaf first, followed by CA certificates of the own file that have
   * issued the last one by name.
   */
  readonly chain: () => readonly Uint8Array[];
  /** The first of them; undefined if there is none. */
  readonly leaf: Uint8Array | undefined;
  /** Whether `node:tls` has verified that a CA of the own file has issued the leaf. */
  readonly isVerified: boolean;
  /**
   * Whether a session is resumed: then the certificates are those of the session's first
   * connection, and `isVerified` is true even if they were refused there.
   */
  readonly isResumed: boolean;
}

export interface HandshakeOptions {
  readonly context: ServerContext;
  /** Is told how many bytes have come. Throws to end the handshake. */
  readonly received: (bytes: number) => void;
  /**
   * Judges the client before it is sent anything more. Throws to refuse it.
   *
   * @default {() => {}}
   */
  readonly judge?: (presented: Presented) => void;
}

/** The client has not begun, or not finished, a handshake of TLS. */
export class HandshakeError extends Error {
  override readonly name = "HandshakeError";
  constructor(readonly kind: HandshakeFailure, message: string) {
    super(message);
  }
}

/**
 * How a client has failed:
 *
 * - `closed`: it has closed the connection
 * - `plain-text`: it does not speak TLS
 * - `no-certificate`: it has presented no certificate
 * - `server-refused`: it does not accept the server's certificate
 * - `failed`: something else
 */
export type HandshakeFailure =
  | "closed"
  | "plain-text"
  | "no-certificate"
  | "server-refused"
  | "failed";

/** By the codes of `node:tls`. */
const failures: Readonly<Record<string, HandshakeFailure>> = {
  ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE: "no-certificate",
  ERR_SSL_SSLV3_ALERT_BAD_CERTIFICATE: "server-refused",
  ERR_SSL_SSLV3_ALERT_CERTIFICATE_EXPIRED: "server-refused",
  ERR_SSL_SSLV3_ALERT_CERTIFICATE_UNKNOWN: "server-refused",
  ERR_SSL_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE: "server-refused",
  ERR_SSL_TLSV1_ALERT_UNKNOWN_CA: "server-refused",
};

/** The first release of Deno whose `node:tls` can be the server on a stream. */
const FIRST = [2, 9];

/** Whether this runtime has servers of TLS on streams, which can ask clients for certificates. */
export function servesStreams(version = Deno.version.deno): boolean {
  const [major, minor] = version.split(".").map(Number);
  return major! > FIRST[0]! || (major === FIRST[0] && minor! >= FIRST[1]!);
}

/** Certificates of a client that are looked at. */
const MAX_CHAIN = 10;

/** Bytes that are read at a time during a handshake. */
const READ_BYTES = 4096;

/** Type of the record that a handshake begins with (RFC 8446, section 5.1). */
const HANDSHAKE = 22;

const PLAIN_HTTP = /^[A-Z]{3,10} \S+ HTTP\/1/;

const PLAIN_HTTP_ANSWER = new TextEncoder().encode(
  "HTTP/1.0 400 Bad Request\r\nConnection: close\r\n\r\nthis port expects TLS\n",
);

/** How clients are met. */
export interface ServerContextOptions {
  /** Whether they have to present a certificate. */
  readonly asksClients: boolean;
  /** ALPN protocol names, most wanted first (RFC 7301). @default {none are looked at} */
  readonly alpn?: readonly string[];
}

/** What all connections with the same certificates and key have in common. */
export class ServerContext {
  readonly #server: Server;

  /** @throws {Error} when `node:tls` cannot use them */
  constructor({ ca, cert, key }: TlsIdentity, { asksClients, alpn }: ServerContextOptions) {
    const text = (pem: Uint8Array) => new TextDecoder().decode(pem);
    this.#server = createServer({
      ...(asksClients && { ca: text(ca) }),
      cert: text(cert),
      key: text(key),
      requestCert: asksClients,
      ...(alpn && { ALPNProtocols: [...alpn] }),
      // No timer: it does not close the connection.
      handshakeTimeout: -1,
    });
    // A client without a certificate gets an alert. With `true`, one with a wrong certificate would
    // be gone before the certificate could be looked at; with `false`, there is no alert.
    if (asksClients) Object.assign(this.#server, { rejectUnauthorized: null });
    this.#tryOut();
  }

  /**
   * Begins a handshake.
   *
   * @param report is given the events of `node:tls` for a server, about this connection only
   */
  begin(transport: NodeDuplex, report: (event: string, ...values: unknown[]) => void): void {
    // A server for each connection would parse certificates and key each time.
    const server = Object.create(this.#server, { emit: { value: report } });
    EventEmitter.prototype.emit.call(server, "connection", transport);
  }

  #tryOut(): void {
    let failure: unknown;
    const transport = new NodeDuplex({ read() {} });
    this.begin(transport, (event, error) => {
      if (event === "tlsClientError") failure = error;
    });
    transport.destroy();
    if (failure) throw failure;
  }
}

/**
 * Does the server's part of a handshake on a connection.
 *
 * Takes the connection over. When the handshake fails, it is closed; when the client is refused, it
 * is reset. Without a time limit: abort the connection to end it.
 *
 * @throws {HandshakeError} when the client does not finish the handshake
 * @throws what `received`, `judge` and the connection throw
 */
export async function acceptTls(carrier: Duplex, options: HandshakeOptions): Promise<Duplex> {
  const transport = new Transport(carrier);
  const buffer = new Uint8Array(READ_BYTES);
  let handshake: Handshake | undefined;
  try {
    for (;;) {
      const reading = carrier.read(buffer);
      const n = await (handshake ? Promise.race([reading, handshake.failed]) : reading);
      if (n === null) throw new HandshakeError("closed", "connection closed within the handshake");
      const bytes = buffer.subarray(0, n);
      options.received(n);
      if (!handshake) await expectTls(carrier, bytes);
      handshake ??= new Handshake(carrier, transport, options);
      transport.receive(bytes);
      handshake.throwRefusal();
      if (handshake.carrier) return handshake.carrier;
    }
  } catch (error) {
    if (error instanceof HandshakeError) await closeAfterAlert(carrier, transport);
    else carrier.abort();
    transport.cut();
    throw error;
  }
}

/** @throws {HandshakeError} when the first bytes are not those of TLS; HTTP is answered */
async function expectTls(carrier: Duplex, bytes: Uint8Array): Promise<void> {
  if (bytes[0] === HANDSHAKE) return;
  const isHttp = PLAIN_HTTP.test(new TextDecoder("latin1").decode(bytes));
  if (isHttp) await writeAll(carrier, PLAIN_HTTP_ANSWER);
  const what = isHttp ? "client speaks HTTP without TLS" : "client does not speak TLS";
  throw new HandshakeError("plain-text", what);
}

/** Closes a connection after what `node:tls` has still to say, which is why the handshake failed. */
async function closeAfterAlert(carrier: Duplex, transport: Transport): Promise<void> {
  try {
    await transport.flushed();
    await carrier.closeWrite();
    await carrier[Symbol.asyncDispose]();
  } catch {
    carrier.abort();
  }
}

/** The connection, as `node:tls` sees it. */
class Transport extends NodeDuplex {
  readonly #carrier: Duplex;
  #written: Promise<unknown> = Promise.resolve();
  #isCut = false;
  /** What a write has failed with, of which `node:tls` tells nobody. */
  failure: unknown;

  constructor(carrier: Duplex) {
    super();
    this.#carrier = carrier;
  }

  /** Hands over bytes of the client, which are decrypted at once. */
  receive(bytes: Uint8Array): void {
    this.emit("data", bytes);
  }

  /** Sends what `node:tls` has encrypted, one piece at a time: it waits for the callback. */
  override write(bytes: Uint8Array, ...rest: unknown[]): boolean {
    const done = rest.at(-1) as () => void;
    if (this.#isCut) return true;
    this.#written = this.#send(bytes).then(done);
    return true;
  }

  async #send(bytes: Uint8Array): Promise<void> {
    try {
      await writeAll(this.#carrier, bytes);
    } catch (error) {
      this.failure ??= error;
    }
  }

  /** Resolves when all has been sent. */
  async flushed(): Promise<void> {
    await this.#written;
  }

  /** Nothing is sent any more. */
  cut(): void {
    this.#isCut = true;
    this.destroy();
  }

  // Bytes come by receive(), whenever somebody waits for them.
  override _read(): void {}
}

/** A handshake in progress. */
class Handshake {
  /** Rejects when it has failed. */
  readonly failed: Promise<never>;
  /** Set once it is complete, and the client is not refused. */
  carrier: Duplex | undefined;
  #refusal: { readonly error: unknown } | undefined;

  constructor(carrier: Duplex, transport: Transport, { context, judge }: HandshakeOptions) {
    const { promise, reject } = Promise.withResolvers<never>();
    this.failed = promise;
    promise.catch(() => {});
    context.begin(transport, (event, value) => {
      if (event === "tlsClientError") reject(handshakeErrorOf(value as NodeError));
      if (event !== "secureConnection") return;
      const socket = value as TLSSocket;
      const established = new TlsCarrier(carrier, transport, socket);
      try {
        judge?.(presentedBy(socket));
        this.carrier = established;
      } catch (error) {
        // Not even a session ticket may follow, which would let the client in next time.
        established.abort();
        this.#refusal = { error };
      }
    });
  }

  /** @throws what the client was refused with, if it was */
  throwRefusal(): void {
    if (this.#refusal) throw this.#refusal.error;
  }
}

type NodeError = Error & { readonly code?: string };

function handshakeErrorOf({ message, code }: NodeError): HandshakeError {
  const kind = failures[code ?? ""] ?? "failed";
  return new HandshakeError(
    kind,
    kind === "no-certificate" ? "the client sent no certificate" : message,
  );
}

function presentedBy(socket: TLSSocket): Presented {
  return {
    leaf: socket.getPeerCertificate().raw,
    chain: () => chainOf(socket.getPeerCertificate(true)),
    isVerified: socket.authorized,
    isResumed: socket.isSessionReused(),
  };
}

function chainOf(leaf: DetailedPeerCertificate): Uint8Array[] {
  const chain: Uint8Array[] = [];
  let last: DetailedPeerCertificate | undefined;
  for (let each = leaf; each?.raw && each !== last; each = each.issuerCertificate) {
    if (chain.push(each.raw) === MAX_CHAIN) break;
    last = each;
  }
  return chain;
}

/** A connection on which TLS is established. */
class TlsCarrier implements Duplex {
  readonly #carrier: Duplex;
  readonly #transport: Transport;
  readonly #socket: TLSSocket;
  /** What is decrypted and not read. */
  #left: Uint8Array = NO_BYTES;
  #hasEnded = false;
  #failure: unknown;
  #rejectWrite: ((error: unknown) => void) | undefined;

  constructor(carrier: Duplex, transport: Transport, socket: TLSSocket) {
    this.#carrier = carrier;
    this.#transport = transport;
    this.#socket = socket;
    socket.on("error", (error) => {
      this.#failure ??= new TunnelError(undefined, "protocol-error", error.message);
    });
    // In place of the queue of a stream, which does not tell at once what a record was.
    socket.push = (bytes: Uint8Array | null) => {
      if (bytes === null) this.#hasEnded = true;
      else this.#left = this.#left.length === 0 ? bytes : concat([this.#left, bytes]);
      return true;
    };
  }

  async read(buffer: Uint8Array): Promise<number | null> {
    while (this.#left.length === 0) {
      if (this.#failure) throw this.#failure;
      if (this.#hasEnded) return null;
      const n = await this.#carrier.read(buffer);
      if (n === null) {
        this.#failure = new Deno.errors.ConnectionReset("connection closed without close_notify");
      } else this.#transport.receive(buffer.subarray(0, n));
    }
    const n = Math.min(this.#left.length, buffer.length);
    buffer.set(n === this.#left.length ? this.#left : this.#left.subarray(0, n));
    this.#left = n === this.#left.length ? NO_BYTES : this.#left.subarray(n);
    return n;
  }

  async write(bytes: Uint8Array): Promise<number> {
    if (bytes.length > 0) {
      await this.#written((done) => this.#socket.write(bytes, done));
    }
    return bytes.length;
  }

  /** Sends close_notify, and ends the writing direction of the connection. */
  async closeWrite(): Promise<void> {
    await this.#written((done) => this.#socket.end(done));
    await this.#transport.flushed();
    await this.#carrier.closeWrite();
  }

  abort(): void {
    this.#carrier.abort();
    this.#cut();
  }

  isReset(): boolean {
    return this.#carrier.isReset?.() ?? false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#carrier[Symbol.asyncDispose]();
    this.#cut();
  }

  #cut(): void {
    const error = new Deno.errors.Interrupted("connection aborted");
    this.#failure ??= error;
    this.#rejectWrite?.(error);
    this.#transport.cut();
    this.#socket.destroy();
  }

  async #written(write: (done: (error?: Error | null) => void) => void): Promise<void> {
    if (this.#failure) throw this.#failure;
    await new Promise<void>((resolve, reject) => {
      this.#rejectWrite = reject;
      write((error) => error ? reject(error) : resolve());
    });
    if (this.#transport.failure) throw this.#transport.failure;
  }
}
