// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { messageOf } from "../errors.ts";
import type { Logger } from "../log.ts";
import { LogThrottle, timesOf } from "../log_throttle.ts";
import { acceptEach } from "../net/accept.ts";
import { ignoreNewClients } from "../net/tcp_listener.ts";
import { formatAuthority, formatSocketAddress } from "../net/authority.ts";
import type { Cidr } from "../net/cidr.ts";
import { maxTunnels } from "../net/descriptors.ts";
import { formatIp, type SocketAddress, socketAddressOf } from "../net/ip_address.ts";
import { hintForTlsClient } from "../observe/hints.ts";
import type { ConnectionRefusal, Monitor } from "../observe/monitor.ts";
import { HalfOpen } from "../quic/handshake/half_open.ts";
import { ClientJudge, ClientRefusedError } from "../tls/client_judge.ts";
import { reasonsOf } from "../tls/faults.ts";
import type { TlsMaterial } from "../tls/files.ts";
import { acceptTls, HandshakeError, ServerContext } from "../tls/tls_carrier.ts";
import type { Duplex } from "../tunnel/duplex.ts";
import { acceptedTcpDuplexes } from "../tunnel/tcp_duplex.ts";
import type { Front, FrontClient, FrontMode } from "./front.ts";
import { identifyClient, ProxyHeaderError } from "./identify_client.ts";

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
  /**
   * Handshakes at a time, of one address half as many. For a further one, the oldest gives way if
   * it has taken longer than a second; else the further one is closed.
   *
   * @default {2000, or an eighth of the file descriptors}
   */
  readonly maxHandshakes?: number;
}

const HANDSHAKE_TIMEOUT_MS = 5_000;
/** Time that no handshake is denied for the sake of others. */
const GRACE_MS = 1_000;
const MAX_HANDSHAKES = 2_000;
/** Share of the file descriptors that handshakes may take. */
const DESCRIPTOR_SHARE = 1 / 8;

/** What a client may send before it is admitted: a long certificate chain fits many times. */
const MAX_HANDSHAKE_BYTES = 64 << 10;
/** The same of all handshakes together. */
const MAX_BYTES = 16 << 20;

/** Lines per second and level: anybody can cause them, and for some, signatures are verified. */
const LINES_PER_SECOND = 5;
const lineThrottle = () => new LogThrottle(1_000, undefined, LINES_PER_SECOND);

/** A handshake exceeds a limit. */
class LimitError extends Error {
  override readonly name = "LimitError";
  constructor(message: string, readonly refusal: ConnectionRefusal = "handshake") {
    super(message);
  }
}

/** A client has not finished its handshake in time. */
class LateError extends LimitError {}

/** A connection whose client is not admitted yet. */
interface Handshake {
  readonly host: string;
  /** When it began, by `performance.now()`. */
  readonly since: number;
  readonly giveUp: (problem: LateError) => void;
}

/** A front for clients that present a certificate in TLS. */
export class TlsFront implements Front {
  readonly kind = "tls";
  readonly address: string;
  readonly #listener: Deno.TcpListener;
  readonly #options: TlsFrontOptions;
  readonly #toDuplex: (connection: Deno.TcpConn) => Duplex;
  readonly #judge: ClientJudge;
  readonly #handshakes: HalfOpen<Duplex>;
  /** The oldest first. */
  readonly #open = new Map<Duplex, Handshake>();
  readonly #contexts = new WeakMap<TlsMaterial, ServerContext>();
  readonly #throttles = { warn: lineThrottle(), debug: lineThrottle() };
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
    const byDescriptors = Math.max(2, Math.floor(maxTunnels() * DESCRIPTOR_SHARE));
    const { maxHandshakes = Math.min(MAX_HANDSHAKES, byDescriptors) } = options;
    this.#handshakes = new HalfOpen({
      maxHandshakes,
      maxPerAddress: Math.ceil(maxHandshakes / 2),
      maxBytes: MAX_BYTES,
    });
    const { log } = options;
    void acceptEach(listener, log, this.#closed.signal, (connection) => this.#take(connection));
  }

  /** Connections whose clients are not admitted yet. */
  get handshakes(): number {
    return this.#open.size;
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
    for (const carrier of this.#open.keys()) carrier.abort();
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
    const { handshakeTimeoutMs = HANDSHAKE_TIMEOUT_MS, acceptProxyProtocol } = this.#options;
    let received = 0;
    let problem: LimitError | undefined;
    const giveUp = (why: LimitError) => {
      problem = why;
      carrier.abort();
    };
    const late = () => new LateError(`handshake not complete within ${handshakeTimeoutMs} ms`);
    const timer = setTimeout(() => giveUp(late()), handshakeTimeoutMs);
    try {
      this.#begin(carrier, remote, giveUp);
      const client = await identifyClient({ carrier, remote, local }, acceptProxyProtocol);
      if (!client) return this.#left(carrier, remote);
      const material = this.#options.tls.current;
      let name: string | undefined;
      const tls = await acceptTls(client.carrier, {
        context: this.#contextOf(material),
        received: (bytes) => {
          received += bytes;
          const isTooMuch = received > MAX_HANDSHAKE_BYTES;
          if (isTooMuch || !this.#handshakes.receive(carrier, bytes)) {
            throw new LimitError(`more than ${received - bytes} bytes in a handshake`);
          }
        },
        judge: (presented) => name = this.#judge.judge(presented, material),
      });
      const { address, listener, via } = client;
      this.#offer({ carrier: tls, remote: address, local: listener, via, name });
    } catch (error) {
      carrier.abort();
      if (received === 0 && error instanceof HandshakeError) this.#left(carrier, remote);
      else this.#refused(problem ?? error, remote);
    } finally {
      clearTimeout(timer);
      this.#end(carrier);
    }
  }

  /** @throws {LimitError} when there are too many handshakes */
  #begin(carrier: Duplex, { ip }: SocketAddress, giveUp: Handshake["giveUp"]): void {
    const host = formatIp(ip);
    const verdict = this.#handshakes.judge(host, 0);
    if (verdict !== "yes") this.#makeRoom(verdict === "too many" ? undefined : host);
    this.#handshakes.add(carrier, host);
    this.#open.set(carrier, { host, since: performance.now(), giveUp });
  }

  /**
   * Gives up the oldest handshake.
   *
   * @param host of whose handshakes; if undefined, of all
   * @throws {LimitError} when it may still be completed
   */
  #makeRoom(host: string | undefined): void {
    const oldest = this.#open.entries()
      .find(([, handshake]) => host === undefined || handshake.host === host);
    const problem = `too many handshakes${host === undefined ? "" : " of the address"}`;
    const age = oldest ? performance.now() - oldest[1].since : 0;
    if (!oldest || age < GRACE_MS) throw new LimitError(problem, "handshake-limit");
    oldest[1].giveUp(new LateError(`${problem}, of which this was the oldest`));
    this.#end(oldest[0]);
  }

  #end(carrier: Duplex): void {
    this.#handshakes.complete(carrier);
    this.#open.delete(carrier);
  }

  #contextOf(material: TlsMaterial): ServerContext {
    let context = this.#contexts.get(material);
    if (!context) this.#contexts.set(material, context = new ServerContext(material));
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
  if (error instanceof HandshakeError) return error.kind === "closed";
  return error instanceof LateError || error instanceof Deno.errors.ConnectionReset;
}

function refusalOf(error: unknown): ConnectionRefusal {
  if (error instanceof ClientRefusedError) {
    return error.names !== undefined ? "not-admitted" : "certificate";
  }
  if (error instanceof HandshakeError && error.kind === "no-certificate") return "certificate";
  if (error instanceof LimitError) return error.refusal;
  return error instanceof ProxyHeaderError ? "proxy-header" : "handshake";
}

const closedError = () => new Deno.errors.BadResource("the listener is closed");
