// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The listener for agents whose networks block UDP: TCP and TLS, upgraded to CONNECT-UDP (RFC 9298)
 * over HTTP/1.1. It carries the datagrams of the server's own QUIC endpoint, and of nobody else. It
 * lets nobody in: QUIC inside does, whose both ends present certificates.
 */
import { MAX_DATAGRAM_BYTES } from "../connect_udp/capsule.ts";
import { CarrierEndedError, CarrierSocket } from "../connect_udp/carrier_socket.ts";
import { UpgradeRequestParser } from "../connect_udp/upgrade_request.ts";
import { messageOf } from "../errors.ts";
import type { Logger } from "../log.ts";
import { refusalThrottles, timesOf } from "../log_throttle.ts";
import { acceptEach } from "../net/accept.ts";
import { type Authority, formatAuthority, formatSocketAddress } from "../net/authority.ts";
import type { Cidr } from "../net/cidr.ts";
import { formatIp, type SocketAddress } from "../net/ip_address.ts";
import type { CarrierRefusal, Monitor } from "../observe/monitor.ts";
import type { QuicEndpoint } from "../quic/mod.ts";
import { TaskGroup } from "../task_group.ts";
import type { TlsIncoming, TlsListener } from "../tls/tls_listener.ts";
import { type Duplex, prepend, writeAll } from "../tunnel/duplex.ts";
import { within } from "../wait.ts";
import { type Client, hostOf, identifyClient, ProxyHeaderError } from "./identify_client.ts";
import { hasLeft, LateError, LimitError, type Stranger, Strangers } from "./strangers.ts";

export interface FallbackOptions {
  /** Whose datagrams are carried. */
  readonly endpoint: Pick<QuicEndpoint, "attach" | "carriersInUse">;
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
  /** How long a carrier is kept that no connection goes through any more. @default {10000} */
  readonly idleTimeoutMs?: number;
}

/** How often it is looked which carriers are in use. */
const LOOK_MS = 250;

/** How long a client may take to close its side after an answer that is none to it. */
const LINGER_MS = 1_000;

/** Bytes of a request that are read at a time. */
const READ_BYTES = 4096;

/** The request is none for CONNECT-UDP; it has got an answer that says so. */
class RequestError extends Error {
  override readonly name = "RequestError";
}

/** What carries datagrams. */
interface Carried {
  readonly socket: CarrierSocket;
  /** The connection below it. */
  readonly raw: Duplex;
  /** Resolves when an agent has connected through it. */
  readonly known: PromiseWithResolvers<void>;
  /** When an agent's connection last went through it, by `performance.now()`. */
  usedAt: number | undefined;
  /** Why this end has closed it. */
  reason?: string;
}

/** Takes carriers of agents. */
export class FallbackListener implements Disposable {
  readonly address: string;
  readonly addr: Deno.NetAddr;
  readonly #listener: TlsListener;
  readonly #options: FallbackOptions;
  readonly #strangers: Strangers;
  readonly #carriers = new Set<Carried>();
  readonly #throttles = refusalThrottles();
  readonly #closed = new AbortController();
  readonly #tasks = new TaskGroup();
  #look: ReturnType<typeof setInterval> | undefined;

  constructor(listener: TlsListener, options: FallbackOptions) {
    this.#listener = listener;
    this.#options = options;
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
      const carried = await this.#strangers.admit(raw, host, async (stranger) => {
        client = await identifyClient({ carrier: raw, remote, local }, acceptProxyProtocol);
        if (client?.via) stranger.isOf(client.address!);
        const duplex = client && await upgrade(client.carrier, incoming, stranger);
        this.#closed.signal.throwIfAborted();
        return duplex && await this.#attach(raw, duplex, client!, stranger);
      });
      if (!carried) return this.#left(raw, remote);
      const since = performance.now();
      const fields = fieldsOf(client!);
      log.debug("agent carrier connected", fields);
      const error = await carried.socket.closed;
      const durationMs = Math.round(performance.now() - since);
      const reason = carried.reason ?? (error && messageOf(error));
      log.debug("agent carrier ended", { ...fields, durationMs, reason });
    } catch (error) {
      this.#refused(error, client?.address ?? remote);
    }
  }

  /** Carries datagrams from now on. Resolves when an agent has connected. */
  async #attach(
    raw: Duplex,
    duplex: Duplex,
    { address, listener }: Client,
    stranger: Stranger,
  ): Promise<Carried> {
    const known = Promise.withResolvers<void>();
    let carried: Carried | undefined;
    const received = (bytes: number) => {
      if (carried!.usedAt !== undefined) return;
      try {
        stranger.receive(bytes);
      } catch (error) {
        // An agent may have connected since the last look.
        this.#lookAtAll();
        if (carried!.usedAt === undefined) throw error;
      }
    };
    const remoteAddr = authorityOf(address!);
    this.#options.endpoint.attach((events) => {
      const socket = new CarrierSocket(
        {
          duplex,
          localAddr: authorityOf(listener!),
          remoteAddr,
          maxDatagramBytes: MAX_DATAGRAM_BYTES,
        },
        events,
        remoteAddr,
        received,
      );
      carried = { socket, raw, known, usedAt: undefined };
      return socket;
    });
    this.#carriers.add(carried!);
    this.#look ??= setInterval(() => this.#lookAtAll(), LOOK_MS);
    const ended = carried!.socket.closed.then((error) => {
      this.#carriers.delete(carried!);
      if (this.#carriers.size > 0) return error;
      clearInterval(this.#look);
      this.#look = undefined;
      return error;
    });
    await Promise.race([
      known.promise,
      ended.then((error) => {
        // Without an error, the endpoint is closing: what it says last has still to leave.
        if (error) throw error;
      }),
    ]);
    return carried!;
  }

  #lookAtAll(): void {
    const { endpoint, idleTimeoutMs = 10_000 } = this.#options;
    const inUse = endpoint.carriersInUse;
    const now = performance.now();
    for (const carried of this.#carriers) {
      if (inUse.has(carried.socket)) {
        carried.usedAt = now;
        carried.known.resolve();
      } else if (carried.usedAt !== undefined && now - carried.usedAt >= idleTimeoutMs) {
        carried.reason ??= `no connection through it for ${idleTimeoutMs} ms`;
        carried.raw.abort();
      }
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

/**
 * TLS and HTTP.
 *
 * @param carrier the connection from the first byte of TLS on
 * @returns undefined for a health check: no request, or one that is answered
 */
async function upgrade(
  carrier: Duplex,
  incoming: TlsIncoming,
  stranger: Stranger,
): Promise<Duplex | undefined> {
  const duplex = await incoming.secure(carrier, (bytes) => stranger.receive(bytes));
  const parser = new UpgradeRequestParser();
  const buffer = new Uint8Array(READ_BYTES);
  for (let n; (n = await duplex.read(buffer)) !== null;) {
    const result = parser.push(buffer.subarray(0, n));
    if (result.kind === "incomplete") continue;
    await writeAll(duplex, result.answer);
    if (result.kind === "upgrade") return prepend(result.rest, duplex);
    await linger(duplex);
    if (result.status === 200) return undefined;
    throw new RequestError(`${result.status}: ${result.text}`);
  }
  return undefined;
}

/**
 * Ends a connection after an answer: bytes that are not read would reset it, and with it the answer.
 * Load balancers reset it themselves when they have that.
 */
async function linger(duplex: Duplex): Promise<void> {
  const buffer = new Uint8Array(READ_BYTES);
  const end = async () => {
    await duplex.closeWrite();
    while (await duplex.read(buffer) !== null);
  };
  await within(LINGER_MS, end(), () => new Error("not closed")).catch(() => {});
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
