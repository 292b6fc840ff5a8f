// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { messageOf } from "../errors.ts";
import type { Logger } from "../log.ts";
import { refusalThrottles, timesOf } from "../log_throttle.ts";
import { acceptEach } from "../net/accept.ts";
import { ignoreNewClients } from "../net/tcp_listener.ts";
import { formatAuthority, formatSocketAddress } from "../net/authority.ts";
import type { Cidr } from "../net/cidr.ts";
import { type SocketAddress, socketAddressOf } from "../net/ip_address.ts";
import { hintForTlsClient } from "../observe/hints.ts";
import type { ConnectionRefusal, Monitor } from "../observe/monitor.ts";
import { ClientJudge, ClientRefusedError } from "../tls/client_judge.ts";
import { reasonsOf } from "../tls/faults.ts";
import type { TlsMaterial } from "../tls/material.ts";
import { acceptTls, HandshakeError, ServerContext } from "../tls/tls_carrier.ts";
import type { Duplex } from "../tunnel/duplex.ts";
import { acceptedTcpDuplexes } from "../tunnel/tcp_duplex.ts";
import type { Front, FrontClient, FrontMode } from "./front.ts";
import { type Client, hostOf, identifyClient, ProxyHeaderError } from "./identify_client.ts";
import {
  hasLeft,
  LateError,
  LimitError,
  type Stranger,
  Strangers,
  withinDescriptors,
} from "./strangers.ts";

export interface TlsFrontOptions {
  /** Certificates and key, as they are at the start of each handshake. */
  readonly tls: { readonly current: TlsMaterial };
  /** Patterns of names of admitted clients, as in `--client-name`; if empty, all are. */
  readonly clientNames: readonly string[];
  /** Networks whose connections begin with a header of the PROXY protocol, ahead of TLS. */
  readonly acceptProxyProtocol: readonly Cidr[];
  /** Idle time until a client is probed, 0 for no probes. */
  readonly tcpKeepaliveMs: number;
  readonly log: Logger;
  readonly monitor: Monitor;
  /** Time for a handshake. @default {5000} */
  readonly handshakeTimeoutMs?: number;
  /** Handshakes at a time. @default {2000, or an eighth of the file descriptors} */
  readonly maxHandshakes?: number;
}

const HANDSHAKE_TIMEOUT_MS = 5_000;
const MAX_HANDSHAKES = 2_000;

/** A front for clients that present a certificate in TLS. */
export class TlsFront implements Front {
  readonly kind = "tls";
  readonly address: string;
  readonly #listener: Deno.TcpListener;
  readonly #options: TlsFrontOptions;
  readonly #toDuplex: (connection: Deno.TcpConn) => Duplex;
  readonly #judge: ClientJudge;
  readonly #strangers: Strangers;
  readonly #contexts = new WeakMap<TlsMaterial, ServerContext>();
  readonly #throttles = refusalThrottles();
  readonly #closed = new AbortController();
  readonly #admitted: FrontClient[] = [];
  readonly #waiting: PromiseWithResolvers<FrontClient>[] = [];

  constructor(
    listener: Deno.TcpListener,
    readonly mode: FrontMode,
    options: TlsFrontOptions,
  ) {
    this.#listener = listener;
    this.#options = options;
    this.address = formatAuthority(listener.addr as Deno.NetAddr);
    this.#toDuplex = acceptedTcpDuplexes(listener, options.tcpKeepaliveMs);
    this.#judge = new ClientJudge(options.clientNames);
    this.#strangers = new Strangers({
      timeoutMs: options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS,
      maxConnections: options.maxHandshakes ?? withinDescriptors(MAX_HANDSHAKES),
    });
    const { log } = options;
    void acceptEach(listener, log, this.#closed.signal, (connection) => this.#take(connection));
  }

  /** Connections whose clients are not admitted yet. */
  get handshakes(): number {
    return this.#strangers.size;
  }

  accept(): Promise<FrontClient> {
    const client = this.#admitted.shift();
    if (client) return Promise.resolve(client);
    const waiting = Promise.withResolvers<FrontClient>();
    if (this.#closed.signal.aborted) waiting.reject(closedError());
    else this.#waiting.push(waiting);
    return waiting.promise;
  }

  retire(): void {
    ignoreNewClients(this.#listener);
  }

  close(): void {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort();
    this.#listener.close();
    this.#strangers.abort();
    for (const { carrier } of this.#admitted.splice(0)) carrier.abort();
    for (const waiting of this.#waiting.splice(0)) waiting.reject(closedError());
  }

  #take(connection: Deno.TcpConn): void {
    let carrier: Duplex;
    let client: Required<Pick<FrontClient, "remote" | "local">>;
    try {
      client = {
        remote: socketAddressOf(connection.remoteAddr),
        local: socketAddressOf(connection.localAddr),
      };
      carrier = this.#toDuplex(connection);
    } catch {
      return connection.close(); // it is gone
    }
    void this.#admit(carrier, client.remote!, client.local!);
  }

  /** Serves a connection until its client is admitted, or refused. Never rejects. */
  async #admit(carrier: Duplex, remote: SocketAddress, local: SocketAddress): Promise<void> {
    const { acceptProxyProtocol } = this.#options;
    const host = hostOf(remote, acceptProxyProtocol);
    try {
      const client = await this.#strangers.admit(carrier, host, async (stranger) => {
        const client = await identifyClient({ carrier, remote, local }, acceptProxyProtocol);
        if (client?.via) stranger.isOf(client.address!);
        return client && await this.#handshake(client, stranger);
      });
      if (client) this.#offer(client);
      else this.#left(carrier, remote);
    } catch (error) {
      this.#refused(error, remote);
    }
  }

  async #handshake(client: Client, stranger: Stranger): Promise<FrontClient> {
    const material = this.#options.tls.current;
    let name: string | undefined;
    const { address, listener, via, carrier } = client;
    const tls = await acceptTls(carrier, {
      context: this.#contextOf(material),
      received: (bytes) => stranger.receive(bytes),
      judge: (presented) => name = this.#judge.judge(presented, material),
    });
    return { carrier: tls, remote: address, local: listener, via, name };
  }

  #contextOf(material: TlsMaterial): ServerContext {
    let context = this.#contexts.get(material);
    if (!context) {
      this.#contexts.set(material, context = new ServerContext(material, { asksClients: true }));
    }
    return context;
  }

  #offer(client: FrontClient): void {
    const waiting = this.#waiting.shift();
    if (waiting) waiting.resolve(client);
    else if (this.#closed.signal.aborted) client.carrier.abort();
    else this.#admitted.push(client);
  }

  /** A client has closed the connection without a byte, as health checks do. */
  #left(carrier: Duplex, remote: SocketAddress): void {
    const { log, monitor } = this.#options;
    carrier.abort();
    monitor.notify((observer) => observer.refused?.("health-check", this.kind));
    log.debug("health check", { client: formatSocketAddress(remote), front: this.kind });
  }

  /** Counts and logs a client that is not admitted. */
  #refused(error: unknown, remote: SocketAddress): void {
    if (this.#closed.signal.aborted) return;
    const { log, monitor } = this.#options;
    monitor.notify((observer) => observer.refused?.(refusalOf(error), this.kind));
    const level = isNoise(error) ? "debug" : "warn";
    const times = this.#throttles[level].pass();
    if (times === undefined) return;
    const refused = error instanceof ClientRefusedError ? error : undefined;
    const faults = refused?.faults ?? [];
    log[level]("tls client refused", {
      client: formatSocketAddress(remote),
      front: this.kind,
      names: refused?.names,
      reason: messageOf(error),
      error: reasonsOf(faults),
      hint: hintForTlsClient(error, faults),
      times: timesOf(times),
    });
  }
}

/** Whether a client has just not gone on, as those that look for open ports do. */
function isNoise(error: unknown): boolean {
  return error instanceof LateError || hasLeft(error);
}

function refusalOf(error: unknown): ConnectionRefusal {
  if (error instanceof ClientRefusedError) {
    return error.names !== undefined ? "not-admitted" : "certificate";
  }
  if (error instanceof HandshakeError && error.kind === "no-certificate") return "certificate";
  if (error instanceof LimitError) return error.isByNumber ? "handshake-limit" : "handshake";
  return error instanceof ProxyHeaderError ? "proxy-header" : "handshake";
}

const closedError = () => new Deno.errors.BadResource("the listener is closed");
