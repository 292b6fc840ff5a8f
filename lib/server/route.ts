// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { ConnectedAgent } from "./connected_agent.ts";
import { messageOf } from "../errors.ts";
import type { Logger } from "../log.ts";
import type { Open } from "../qrht/messages.ts";
import { StreamCode } from "../qrht/codes.ts";
import type { QuicStream } from "../quic/mod.ts";
import type { AgentRegistry } from "./registry.ts";
import { RetryingTunnel } from "./retrying_tunnel.ts";
import { peerAttributes, type TunnelSpan } from "../observe/trace.ts";
import { openTunnel, type OutgoingTunnel } from "../qrht/tunnel.ts";
import type { FailureCode, RetryCause } from "../qrht/failure.ts";

/** How a tunnel finds its agent. */
export interface RoutePolicy {
  /** Time a tunnel waits for an agent when there is none; 0 for not at all. */
  readonly agentWaitMs: number;
  /** Time a tunnel waits for a stream when no agent has credit left. @default {10000} */
  readonly openTimeoutMs?: number;
  /** Time until an agent has connected a tunnel, all attempts together. */
  readonly connectTimeoutMs: number;
  /** Agents that a tunnel is tried with, the first included. */
  readonly maxAttempts: number;
  /** Why a tunnel is tried with another agent. */
  readonly retryOn: readonly RetryCause[];
}

export interface RouteOptions {
  readonly policy: RoutePolicy;
  readonly registry: AgentRegistry<ConnectedAgent, QuicStream>;
  readonly log: Logger;
  /** What the log says of the client. */
  readonly fields: Readonly<Record<string, unknown>>;
  readonly span?: TunnelSpan | undefined;
}

const OPEN_TIMEOUT_MS = 10_000;

/** What the log says of an agent that has the tunnel. */
type AgentFields = Record<string, unknown> & { agent?: string; result?: FailureCode };

/** Causes for which the wait for an agent begins anew: the one that was there is none any more. */
const LEFT: readonly RetryCause[] = ["draining", "gone"];

/** The way of one tunnel to an agent: to one, and when that cannot connect it perhaps to another. */
export class Route {
  readonly #open: Open;
  readonly #options: RouteOptions;
  readonly #tried = new Set<ConnectedAgent>();
  #fields: AgentFields = {};

  constructor(open: Open, options: RouteOptions) {
    this.#open = open;
    this.#options = options;
  }

  /** What the log says of the agent that the tunnel has got to. */
  get fields(): Readonly<Record<string, unknown>> {
    return this.#fields;
  }

  /** The name of that agent. */
  get agent(): string | undefined {
    return this.#fields.agent;
  }

  /** Why that agent has not connected it, if it has said so. */
  get failure(): FailureCode | undefined {
    return this.#fields.result;
  }

  /**
   * Opens a stream to an agent, and has others tried as long as agents say that they have not connected the tunnel.
   *
   * @throws when there is no agent, or none with room for a stream
   */
  async connect(): Promise<RetryingTunnel> {
    const { agentWaitMs, connectTimeoutMs } = this.#options.policy;
    const first = await this.#attempt(agentWaitMs);
    return new RetryingTunnel(first, {
      timeoutMs: connectTimeoutMs,
      movedCode: StreamCode.Moved,
      retry: (cause) => this.#retry(cause),
    });
  }

  async #retry(cause: RetryCause): Promise<OutgoingTunnel | undefined> {
    const { retryOn, agentWaitMs } = this.#options.policy;
    if (!retryOn.includes(cause)) return undefined;
    return await this.#attempt(LEFT.includes(cause) ? agentWaitMs : 0);
  }

  /** Another agent than those that had the tunnel already. */
  async #attempt(agentWaitMs: number): Promise<OutgoingTunnel> {
    const { registry, policy, span } = this.#options;
    const { maxAttempts, openTimeoutMs = OPEN_TIMEOUT_MS } = policy;
    if (this.#tried.size >= maxAttempts) throw new Error(`${maxAttempts} agents have been tried`);
    span?.event("wait for an agent");
    const { agent, stream } = await registry.open({
      agentWaitMs,
      creditWaitMs: openTimeoutMs,
      except: this.#tried,
    });
    this.#tried.add(agent);
    return this.#tunnel(agent, stream);
  }

  #tunnel(agent: ConnectedAgent, stream: QuicStream): OutgoingTunnel {
    const { log, span } = this.#options;
    const own: AgentFields = this.#fields = { ...agent.fields, stream: stream.id };
    if (this.#tried.size > 1) own.attempts = this.#tried.size;
    const fields = { ...this.#options.fields, ...own };
    log.trace("stream opened", fields);
    span?.event("stream opened", {
      "qrht.agent": agent.name,
      "qrht.cid": agent.connection.id,
      "qrht.stream": stream.id,
      ...peerAttributes(agent.connection.remoteAddr.hostname, agent.connection.remoteAddr.port),
    });
    const tunnel = openTunnel(stream, agent.alpn, this.#open);
    tunnel.result.then(
      ({ code, text }) => {
        if (code === "connected") return span?.event("connected");
        own.result = code;
        span?.event("not connected", { "error.type": code, "error.message": text });
        log.debug("agent cannot connect", { ...fields, code, text });
      },
      (error) => {
        span?.event("not connected", { "error.type": "gone", "error.message": messageOf(error) });
        log.debug("no result from the agent", { ...fields, error });
      },
    );
    return tunnel;
  }
}
