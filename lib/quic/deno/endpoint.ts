// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../../net/authority.ts";
import { ConnectionClosedError } from "../errors.ts";
import {
  MAX_UNI_STREAMS,
  type TlsIdentity,
  type TransportOptions,
  transportSettings,
} from "../options.ts";
import { within } from "../../wait.ts";
import { DenoQuicConnection } from "./connection.ts";
import { closeInfoOf } from "./errors.ts";
import { trustNoOtherCa } from "./trust.ts";

/** Deno's names of the algorithms; it has no other. */
const algorithms = { bbr: "low-latency", cubic: "throughput", reno: "throughput" } as const;

/** The published types have no client certificate. */
type ConnectOptions = Deno.ConnectQuicOptions<false> & {
  readonly cert: string;
  readonly key: string;
};

/** Time that the server has to open its control stream to a client which has given up. */
const LET_GO_MS = 500;

const decoder = new TextDecoder();

/** PEM as Deno takes it. */
function pemOf({ ca, cert, key }: TlsIdentity) {
  return { caCerts: [decoder.decode(ca)], cert: decoder.decode(cert), key: decoder.decode(key) };
}

/**
 * Finds out whether connections could be made with certificates and key, and has Deno trust no
 * other CA.
 *
 * @throws {Error} when they could not
 */
export function checkDenoIdentity(tls: TlsIdentity): void {
  trustNoOtherCa();
  Deno.createHttpClient(pemOf(tls)).close();
}

/**
 * A UDP socket of Deno's own QUIC, for the connections of agents: it cannot ask clients for
 * certificates. Deno leaves the socket open until the endpoint is garbage, so one should serve all
 * connections of its family.
 */
export class DenoQuicEndpoint implements AsyncDisposable {
  readonly #endpoint: Deno.QuicEndpoint;
  readonly #connections = new Set<DenoQuicConnection>();

  /** Binds a socket. @param hostname address to bind, an IP address */
  constructor(hostname: string) {
    this.#endpoint = new Deno.QuicEndpoint({ hostname, port: 0 });
  }

  /**
   * Connects to a server, as `QuicEndpoint` does. An attempt that is given up ends in the
   * background, at the latest after the idle timeout.
   *
   * @param relay address of what leads to the peer, by a carrier
   * @throws {ConnectionClosedError} when the handshake fails
   * @throws {UsageError} when Deno would trust other CAs as well
   * @throws the signal's reason when it aborts first
   */
  async connect(
    peer: Authority,
    serverName: string,
    options: TransportOptions,
    signal?: AbortSignal,
    relay?: Authority,
  ): Promise<DenoQuicConnection> {
    signal?.throwIfAborted();
    trustNoOtherCa();
    const settings = transportSettings(options);
    const { tls, idleTimeoutMs, keepAliveMs, maxUniStreams } = settings;
    const timeoutMs = relay ? settings.carrierHandshakeTimeoutMs : settings.handshakeTimeoutMs;
    const connectOptions: ConnectOptions = {
      endpoint: this.#endpoint,
      ...relay ?? peer,
      serverName,
      alpnProtocols: [...settings.alpn],
      // It tries all CAs of one name by itself.
      ...pemOf("current" in tls ? tls.current : tls),
      maxIdleTimeout: idleTimeoutMs,
      ...(keepAliveMs > 0 && { keepAliveInterval: keepAliveMs }),
      maxConcurrentBidirectionalStreams: settings.maxStreams,
      maxConcurrentUnidirectionalStreams: maxUniStreams,
      congestionControl: algorithms[settings.congestionControl],
    };
    const carried = relay ? { isCarried: true } as const : {};
    const over = Promise.withResolvers<never>();
    let isUnanswered = true;
    const timer = setTimeout(() => {
      const reason = isUnanswered ? "no answer" : "no control stream";
      over.reject(
        new ConnectionClosedError({
          by: "timeout",
          application: false,
          code: 0,
          reason: `${reason} after ${timeoutMs} ms`,
          ...(isUnanswered && { isUnanswered }),
          ...carried,
        }),
      );
    }, timeoutMs);
    const aborted = () => over.reject(signal!.reason);
    signal?.addEventListener("abort", aborted);
    let connecting: Promise<DenoQuicConnection> | undefined;
    try {
      connecting = Promise.try(() => Deno.connectQuic(connectOptions)).then(
        (native) => this.#connected(native, peer, idleTimeoutMs, relay !== undefined),
        (error) => {
          const info = closeInfoOf(error, idleTimeoutMs);
          if (info.by !== "timeout") throw new ConnectionClosedError(info);
          throw new ConnectionClosedError({ ...info, isUnanswered: true, ...carried });
        },
      );
      const connection = await Promise.race([connecting, over.promise]);
      isUnanswered = false;
      await Promise.race([connection.confirmed, over.promise]);
      return connection;
    } catch (error) {
      connecting?.then(letGo, () => {});
      throw error;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
    }
  }

  #connected(
    native: Deno.QuicConn,
    remoteAddr: Authority,
    idleTimeoutMs: number,
    isCarried: boolean,
  ): DenoQuicConnection {
    const connection = new DenoQuicConnection(native, {
      remoteAddr,
      isCarried,
      idleTimeoutMs,
      uniCredit: MAX_UNI_STREAMS,
    });
    this.#connections.add(connection);
    void connection.closed.then(() => this.#connections.delete(connection));
    return connection;
  }

  /** Closes all connections at once. */
  // deno-lint-ignore require-await
  async close(code = 0, reason = ""): Promise<void> {
    for (const connection of this.#connections) connection.close(code, reason);
    this.#endpoint.close({ closeCode: code, reason });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/** Closes a connection that nobody wants any more. */
async function letGo(connection: DenoQuicConnection): Promise<void> {
  // Right after the handshake, the server would not take the close for what it is.
  await within(LET_GO_MS, connection.confirmed, () => new Error("no control stream"))
    .catch(() => {});
  connection.close(0, "the attempt was given up");
}
