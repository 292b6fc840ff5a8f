// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { type Authority, formatAuthority } from "../net/authority.ts";
import { isIpAddress } from "../net/ip_address.ts";
import { CloseCode } from "../qrht/codes.ts";
import { CarrierDialError } from "../connect_udp/dial_carrier.ts";
import { messageOf } from "../errors.ts";
import { identityOf } from "../quic/mod.ts";
import type { TaskGroup } from "../task_group.ts";
import { sleep } from "../wait.ts";
import { explainConnectError, isRefused, isVerdict, neitherWay } from "./connect_error.ts";
import { openCarried } from "./carrier.ts";
import { type OpenConnection, openConnection } from "./open_connection.ts";
import { type AgentConfig, AgentSession, type AgentSessionOptions } from "./session.ts";
import { type Transport, TransportPolicy } from "./transport_policy.ts";
import { RaceLostError, type RaceOptions, raceTransports } from "./transport_race.ts";
import { tryUdp } from "./udp_trial.ts";

/** How long UDP has to work beside TCP until it takes its place. */
const TRIAL_MS = 5_000;

/** Time a session has to last, and after it, in which pauses are short: TCP may only have stalled. */
const HEALTHY_MS = 5_000;
const HURRY_MS = 60_000;
const HURRIED_PAUSE_MS = 500;
const HURRIED_DIAL_MS = 2_000;

/** How long a TCP connection, with what belongs to it, may take otherwise. */
const DIAL_MS = 10_000;

/** Pause between two attempts at a closed UDP port while TCP is tried, and of TCP after a failure. */
const REFUSED_PAUSE_MS = 500;
const TCP_REST_MS = 10_000;

/**
 * The way to one server: over UDP, or over TCP, as `--transport` says. With `auto`, it follows what
 * the network lets through.
 */
export class ServerLink {
  readonly #address: Authority;
  readonly #name: string;
  readonly #config: AgentConfig;
  readonly #options: AgentSessionOptions;
  readonly #tasks: TaskGroup;
  readonly #policy: TransportPolicy;
  /** The last failure of TCP, and until when it stands for the next ones. */
  #tcpFailure: { readonly error: unknown; readonly until: number } | undefined;
  #hurryUntil = 0;
  /** How long it took to connect over TCP. */
  #tcpTookMs = 0;

  /**
   * @param address IP address and port of the server, or a name that is left to a proxy
   * @param tasks gets what it takes to end attempts that are of no use any more
   */
  constructor(
    address: Authority,
    config: AgentConfig,
    options: AgentSessionOptions,
    tasks: TaskGroup,
  ) {
    this.#address = address;
    this.#name = formatAuthority(address);
    this.#config = config;
    this.#options = options;
    this.#tasks = tasks;
    this.#policy = new TransportPolicy(config.transportTimes);
  }

  /**
   * Connects to the server.
   *
   * @throws with the cause in its message, or the causes of both transports, when that fails
   * @throws the signal's reason when it aborts first
   */
  async connect(signal: AbortSignal): Promise<AgentSession> {
    // UDP needs an address.
    const transport = isIpAddress(this.#address.hostname) ? this.#config.transport : "tcp";
    if (transport !== "auto") {
      return await this.#session(signal, (signal) => this.#open(transport, signal));
    }
    let udpFailure: unknown;
    const session = await this.#session(signal, async (signal) => {
      const { value, failures } = await this.#race(signal);
      udpFailure = failures.udp;
      return value;
    });
    const ofTcp = udpFailure === undefined ? "UDP is silent" : messageOf(udpFailure);
    this.#connected(session, session.transport === "udp" ? "UDP answers" : ofTcp);
    return session;
  }

  /**
   * Waits until a session is to be replaced, and tries UDP meanwhile if it is over TCP.
   *
   * @returns the session over UDP that is to take its place, if UDP works again
   */
  async successorOf(session: AgentSession, signal: AbortSignal): Promise<AgentSession | undefined> {
    const over = new AbortController();
    const stop = AbortSignal.any([signal, over.signal]);
    void session.replaceable.then(() => over.abort());
    while (!stop.aborted && this.#policy.nextTrialAt !== undefined) {
      const now = performance.now();
      const inMs = Math.max(0, this.#policy.nextTrialAt - now);
      session.nextUdpTrialAt = Date.now() + inMs;
      await sleep(inMs, stop);
      if (stop.aborted) break;
      const successor = await this.#tryUdp(stop);
      if (successor) return successor;
    }
    await session.replaceable;
    return undefined;
  }

  /** A session has ended, or is to be replaced. */
  ended({ connection, since }: AgentSession): void {
    const { closeInfo, isCarried } = connection;
    const now = performance.now();
    if (closeInfo) this.#policy.ended(closeInfo.by === "timeout", now);
    if (isCarried && Date.now() - since >= HEALTHY_MS) this.#hurryUntil = now + HURRY_MS;
  }

  /** Longest pause before connecting again, where it is short. */
  get maxPauseMs(): number | undefined {
    return performance.now() < this.#hurryUntil ? HURRIED_PAUSE_MS : undefined;
  }

  get #tcpTimeoutMs(): number {
    if (performance.now() >= this.#hurryUntil) return DIAL_MS;
    // Where it takes long, an attempt that is given up early would never succeed.
    return Math.min(Math.max(HURRIED_DIAL_MS, 2 * this.#tcpTookMs), DIAL_MS);
  }

  #session(
    signal: AbortSignal,
    open: (signal: AbortSignal) => Promise<OpenConnection>,
  ): Promise<AgentSession> {
    return AgentSession.connect(this.#address, this.#config, this.#options, signal, open);
  }

  async #open(transport: Transport, signal: AbortSignal): Promise<OpenConnection> {
    if (transport === "udp") return await openConnection(this.#address, this.#config, signal);
    const since = performance.now();
    const opened = await openCarried(this.#address, this.#config, this.#tcpTimeoutMs, signal);
    this.#tcpTookMs = performance.now() - since;
    return opened;
  }

  async #race(signal: AbortSignal) {
    const { tls, serverName } = this.#config;
    const { order, headStartMs } = this.#policy;
    const identity = identityOf(tls);
    let isUdpRefused = false;
    const open = async (transport: Transport, signal: AbortSignal) => {
      if (transport === "tcp") {
        return await (isUdpRefused ? this.#openInTurn(signal) : this.#open("tcp", signal));
      }
      try {
        return await this.#open("udp", signal);
      } catch (error) {
        isUdpRefused = isRefused(error);
        throw error;
      }
    };
    try {
      return await raceTransports(this.#raceOptions({ order, headStartMs, open, signal }));
    } catch (error) {
      if (!(error instanceof RaceLostError)) throw error;
      this.#policy.unreachable();
      const { udp, tcp } = error.failures;
      throw neitherWay(
        explainConnectError(udp, identity, serverName),
        explainConnectError(tcp, identity, serverName),
      );
    }
  }

  /**
   * Connects where the UDP port is closed: by a firewall, or because the server is being started
   * anew. So UDP goes on to be tried while TCP is, and TCP, which may take long to fail, is not tried
   * each time.
   */
  async #openInTurn(signal: AbortSignal): Promise<OpenConnection> {
    const last = this.#tcpFailure;
    if (last && performance.now() < last.until) throw last.error;
    const tcpOver = new AbortController();
    const open = async (transport: Transport, signal: AbortSignal) => {
      if (transport === "tcp") {
        return await this.#open("tcp", signal).finally(() => tcpOver.abort());
      }
      for (;;) {
        try {
          return await this.#open("udp", signal);
        } catch (error) {
          if (!isRefused(error) || tcpOver.signal.aborted) throw error;
        }
        await sleep(REFUSED_PAUSE_MS, AbortSignal.any([signal, tcpOver.signal]));
      }
    };
    const order = ["tcp", "udp"] as const;
    const options = this.#raceOptions({ order, headStartMs: REFUSED_PAUSE_MS, open, signal });
    try {
      return (await raceTransports(options)).value;
    } catch (error) {
      if (!(error instanceof RaceLostError)) throw error;
      const { tcp } = error.failures;
      this.#tcpFailure = tcp instanceof CarrierDialError && tcp.isRefused
        ? undefined
        : { error: tcp, until: performance.now() + TCP_REST_MS };
      throw tcp;
    }
  }

  #raceOptions(
    options: Pick<RaceOptions<OpenConnection>, "order" | "headStartMs" | "open" | "signal">,
  ): RaceOptions<OpenConnection> {
    return {
      ...options,
      isVerdict,
      discard: ({ close }) => close(CloseCode.AgentLeaves, "another transport was faster"),
      tasks: this.#tasks,
    };
  }

  /** Tries UDP, and connects over it if it works. Never rejects. */
  async #tryUdp(signal: AbortSignal): Promise<AgentSession | undefined> {
    const { log, monitor: { program } } = this.#options;
    const { name, udpTrialMs = TRIAL_MS } = this.#config;
    try {
      await tryUdp(this.#address, this.#config, { program, name }, udpTrialMs, signal);
      const session = await this.#session(signal, (signal) => this.#open("udp", signal));
      this.#connected(session, "UDP works again");
      return session;
    } catch (error) {
      if (signal.aborted) return undefined;
      this.#policy.trialFailed(performance.now());
      const nextInMs = Math.round(this.#policy.nextTrialAt! - performance.now());
      log.debug("udp does not work yet", { server: this.#name, error: messageOf(error), nextInMs });
      return undefined;
    }
  }

  #connected({ transport: to }: AgentSession, reason: string): void {
    const { log, monitor } = this.#options;
    const from = this.#policy.current;
    if (!this.#policy.connected(to, performance.now())) return;
    log.info("transport changed", { server: this.#name, from, to, reason });
    monitor.notify((observer) => observer.transportChanged?.(to));
  }
}
