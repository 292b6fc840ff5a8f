// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { ConnectedAgent } from "./connected_agent.ts";
import { messageOf } from "../errors.ts";
import type { Logger } from "../log.ts";
import type { Open } from "../qrht/messages.ts";
import { StreamCode } from "../qrht/codes.ts";
import type { QuicStream } from "../quic/mod.ts";
import type { AgentRegistry } from "./registry.ts";
import { RetryingTunnel, type RetryOptions } from "./retrying_tunnel.ts";
import { peerAttributes, type TunnelSpan } from "../observe/trace.ts";
import { openTunnel, type OutgoingTunnel } from "../qrht/tunnel.ts";
import type { FailureCode, RetryCause } from "../tunnel/failure.ts";

/** How a tunnel finds its agent. */
export interface RoutePolicy {
  /** How long a tunnel waits when there is no agent; 0 for not at all. */
  readonly agentWaitMs: number;
  /** How long a tunnel waits for a stream when no agent has credit. @default {10000} */
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
  /** Whether the agents of the registry are still those that the client is led to. */
  readonly isCurrent: () => boolean;
  readonly log: Logger;
  /** Log fields of the client. */
  readonly fields: Readonly<Record<string, unknown>>;
  readonly span?: TunnelSpan | undefined;
  /** See {@linkcode RetryOptions.answer}. */
  readonly answer?: RetryOptions["answer"];
}

const OPEN_TIMEOUT_MS = 10_000;

/** Log fields of the agent that has the tunnel. */
type AgentFields = Record<string, unknown> & { agent?: string; result?: FailureCode };

/** Causes after which another agent is waited for: the previous one is gone. */
const LEFT: readonly RetryCause[] = ["draining", "gone"];

/** The route of one tunnel to an agent, or to several in turn if attempts fail. */
export class Route {
  readonly #open: Open;
  readonly #options: RouteOptions;
  readonly #tried = new Set<ConnectedAgent>();
  #fields: AgentFields = {};
  #mayBeAbandoned = false;

  constructor(open: Open, options: RouteOptions) {
    this.#open = open;
    this.#options = options;
  }

  /** Log fields of the agent that has the tunnel. */
  get fields(): Readonly<Record<string, unknown>> {
    return this.#fields;
  }

  /** The name of that agent. */
  get agent(): string | undefined {
    return this.#fields.agent;
  }

  /** Why that agent has not connected it, if it reported that. */
  get failure(): FailureCode | undefined {
    return this.#fields.result;
  }

  /** Whether that agent may abandon it: see {@linkcode ConnectedAgent}. */
  get mayBeAbandoned(): boolean {
    return this.#mayBeAbandoned;
  }

  /**
   * Opens a stream to an agent. Tries others as long as agents report that they cannot connect it.
   *
   * @throws when there is no agent, or none with a free stream
   */
  async connect(): Promise<RetryingTunnel> {
    const { agentWaitMs, connectTimeoutMs } = this.#options.policy;
    const first = await this.#attempt(agentWaitMs);
    return new RetryingTunnel(first, {
      timeoutMs: connectTimeoutMs,
      movedCode: StreamCode.Moved,
      answer: this.#options.answer,
      retry: (cause) => this.#retry(cause),
    });
  }

  async #retry(cause: RetryCause): Promise<OutgoingTunnel | undefined> {
    const { policy: { retryOn, agentWaitMs }, isCurrent } = this.#options;
    // By other rules, the next agent might be in another network.
    if (!retryOn.includes(cause) || !isCurrent()) return undefined;
    return await this.#attempt(LEFT.includes(cause) ? agentWaitMs : 0);
  }

  /** Tries an agent that has not had the tunnel yet. */
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
    this.#mayBeAbandoned = agent.mayAbandonStreams;
    if (this.#tried.size > 1) own.attempts = this.#tried.size;
    const fields = () => ({ ...this.#options.fields, ...own });
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
        span?.event("not connected", { "error.type": code, "error.message": text });
        log.debug("agent cannot connect", { ...fields(), code, text });
        own.result = code;
      },
      (error) => {
        span?.event("not connected", { "error.type": "gone", "error.message": messageOf(error) });
        log.debug("no result from the agent", { ...fields(), error });
      },
    );
    return tunnel;
  }
}
