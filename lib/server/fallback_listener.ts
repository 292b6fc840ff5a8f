// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The listener for agents whose networks block UDP: TCP and TLS, upgraded to CONNECT-UDP (RFC 9298)
 * over HTTP/1.1. It carries the datagrams of the server's own QUIC endpoint, and of nobody else. It
 * lets nobody in: QUIC inside does, whose both ends present certificates.
 */
import { acceptUpgrade, RequestError } from "../connect_udp/accept_upgrade.ts";
import { MAX_DATAGRAM_BYTES } from "../connect_udp/capsule.ts";
import { type Carrier, CarrierEndedError } from "../connect_udp/carrier_socket.ts";
import { messageOf } from "../errors.ts";
import type { Logger } from "../log.ts";
import { refusalThrottles, timesOf } from "../log_throttle.ts";
import { acceptEach } from "../net/accept.ts";
import { type Authority, formatAuthority, formatSocketAddress } from "../net/authority.ts";
import type { Cidr } from "../net/cidr.ts";
import { formatIp, type SocketAddress } from "../net/ip_address.ts";
import type { CarrierRefusal, Monitor } from "../observe/monitor.ts";
import { TaskGroup } from "../task_group.ts";
import type { TlsIncoming, TlsListener } from "../tls/tls_listener.ts";
import type { Duplex } from "../tunnel/duplex.ts";
import { Carriers, type CarriersOptions } from "./carriers.ts";
import { type Client, hostOf, identifyClient, ProxyHeaderError } from "./identify_client.ts";
import { hasLeft, LateError, LimitError, Strangers } from "./strangers.ts";

export interface FallbackOptions extends CarriersOptions {
  /** Networks whose connections begin with a header of the PROXY protocol, ahead of TLS. */
  readonly acceptProxyProtocol: readonly Cidr[];
  /** Carriers at a time; further ones are closed at once. */
  readonly maxCarriers: number;
  /** Those of them without a connection of an agent; of one address half as many. */
  readonly maxHandshakes: number;
  readonly log: Logger;
  readonly monitor: Monitor;
  /**
   * Time until an agent has connected: TLS, upgrade and QUIC together. @default {10000}
   */
  readonly handshakeTimeoutMs?: number;
}

/** Takes carriers of agents. */
export class FallbackListener implements Disposable {
  readonly address: string;
  readonly addr: Deno.NetAddr;
  readonly #listener: TlsListener;
  readonly #options: FallbackOptions;
  readonly #strangers: Strangers;
  readonly #carriers: Carriers;
  readonly #throttles = refusalThrottles();
  readonly #closed = new AbortController();
  readonly #tasks = new TaskGroup();

  constructor(listener: TlsListener, options: FallbackOptions) {
    this.#listener = listener;
    this.#options = options;
    this.#carriers = new Carriers(options);
    this.addr = listener.addr;
    this.address = formatAuthority(this.addr);
    const { handshakeTimeoutMs = 10_000, maxHandshakes, log } = options;
    this.#strangers = new Strangers({
      timeoutMs: handshakeTimeoutMs,
      maxConnections: maxHandshakes,
    });
    const { signal } = this.#closed;
    void acceptEach(listener, log, signal, (incoming) => this.#tasks.add(this.#serve(incoming)));
  }

  get maxCarriers(): number {
    return this.#options.maxCarriers;
  }

  /** Carriers now, with those that no agent has connected through yet. */
  get carriers(): number {
    return this.#carriers.size;
  }

  /** Connections that no agent has connected through yet. */
  get strangers(): number {
    return this.#strangers.size;
  }

  /** Stops listening. Carriers go on until the endpoint closes. Idempotent. */
  close(): void {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort();
    this.#listener[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.close();
    this.#strangers.abort();
  }

  /** Resolves when all has ended, to be called once the endpoint is closed. */
  async ended(): Promise<void> {
    this.#strangers.abort();
    await this.#tasks.ended();
  }

  /** Serves a connection until its carrier has ended, or was refused. Never rejects. */
  async #serve(incoming: TlsIncoming): Promise<void> {
    const { raw, remote, local } = incoming;
    const { acceptProxyProtocol, maxCarriers, log } = this.#options;
    const host = hostOf(remote, acceptProxyProtocol);
    let client: Client | undefined;
    try {
      if (this.#carriers.size >= maxCarriers) {
        raw.abort();
        throw new LimitError(`${maxCarriers} carriers are already connected`, true);
      }
      const used = await this.#strangers.admit(raw, host, async (stranger) => {
        const received = (bytes: number) => stranger.receive(bytes);
        client = await identifyClient({ carrier: raw, remote, local }, acceptProxyProtocol);
        if (client?.via) stranger.isOf(client.address!);
        const secure = client && await incoming.secure(client.carrier, received);
        const duplex = secure && await acceptUpgrade(secure);
        this.#closed.signal.throwIfAborted();
        return duplex && await this.#carriers.attach(raw, carrierOf(duplex, client!), received);
      });
      if (!used) return this.#left(raw, remote);
      const since = performance.now();
      const fields = fieldsOf(client!);
      log.debug("agent carrier connected", fields);
      const reason = await used.ended;
      const durationMs = Math.round(performance.now() - since);
      log.debug("agent carrier ended", { ...fields, durationMs, reason });
    } catch (error) {
      this.#refused(error, client?.address ?? remote);
    }
  }

  /** A load balancer has looked whether the server is there. */
  #left(raw: Duplex, remote: SocketAddress): void {
    const { log, monitor } = this.#options;
    raw.abort();
    monitor.notify((observer) => observer.carrierRefused?.("health-check"));
    log.debug("health check", { client: formatSocketAddress(remote), front: "fallback" });
  }

  /** Counts and logs a connection that carries nothing. */
  #refused(error: unknown, remote: SocketAddress): void {
    if (this.#closed.signal.aborted) return;
    const { log, monitor } = this.#options;
    monitor.notify((observer) => observer.carrierRefused?.(refusalOf(error)));
    const level = isNoise(error) ? "debug" : "warn";
    const times = this.#throttles[level].pass();
    if (times === undefined) return;
    log[level]("agent carrier refused", {
      client: formatSocketAddress(remote),
      reason: messageOf(error),
      times: timesOf(times),
    });
  }
}

function carrierOf(duplex: Duplex, { address, listener }: Client): Carrier {
  const [localAddr, remoteAddr] = [authorityOf(listener!), authorityOf(address!)];
  return { duplex, localAddr, remoteAddr, maxDatagramBytes: MAX_DATAGRAM_BYTES };
}

function authorityOf({ ip, port }: SocketAddress): Authority {
  return { hostname: formatIp(ip), port };
}

function fieldsOf({ address, via }: Client) {
  return { client: formatSocketAddress(address!), via: via && formatSocketAddress(via) };
}

/** Whether a client has just not gone on, as those that look for open ports do. */
function isNoise(error: unknown): boolean {
  return error instanceof LateError || error instanceof CarrierEndedError || hasLeft(error);
}

function refusalOf(error: unknown): CarrierRefusal {
  if (error instanceof LimitError && error.isByNumber) return "limit";
  if (error instanceof RequestError) return "request";
  return error instanceof ProxyHeaderError ? "proxy-header" : "handshake";
}
