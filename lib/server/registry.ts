// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { type Balance, type Candidate, choose } from "./balance.ts";
import { TunnelError } from "../tunnel/errors.ts";

/** An agent, as the registry sees it. */
export interface Agent<Stream> extends Candidate {
  /** Whether a stream can be opened now. */
  readonly hasCredit: boolean;
  /** Whether a packet of it has arrived recently. Silent agents are used last: they may be gone. */
  readonly isResponsive: boolean;
  /** Opens a stream, which takes credit. */
  open(): Stream;
  /** Resolves, and never rejects, when there is credit, or will never be any. */
  credit(): Promise<void>;
}

/** No agent could take the tunnel within the time that its caller wanted to wait. */
export class NoAgentError extends TunnelError {
  override readonly name = "NoAgentError";
  constructor(message: string) {
    super("self", "no-agent", message);
  }
}

export interface RegistryOptions {
  /** Which agent a tunnel goes to. */
  readonly balance: Balance;
  /** Callers that may wait at a time. */
  readonly maxPending: number;
  /** What its agents are called in error messages, if they are not all. */
  readonly group?: string | undefined;
  /** Source of numbers from 0 up to 1. @default {Math.random} */
  readonly random?: () => number;
}

export interface OpenOptions<A> {
  /** Time to wait for an agent when there is none; 0 for not at all. */
  readonly agentWaitMs: number;
  /** Time to wait for stream credit when no agent has any; 0 for not at all. */
  readonly creditWaitMs: number;
  /** Agents that will not do. */
  readonly except?: ReadonlySet<A>;
}

/** A stream, and the agent that it leads to. */
export interface Opened<A, Stream> {
  readonly agent: A;
  readonly stream: Stream;
}

interface Waiter<A, Stream> {
  readonly except: ReadonlySet<A>;
  resolve(opened: Opened<A, Stream>): void;
  reject(error: NoAgentError): void;
}

/** The agents that take tunnels, and the callers that wait for one. */
export class AgentRegistry<A extends Agent<Stream>, Stream> {
  readonly #agents: A[] = [];
  readonly #waiters = new Set<Waiter<A, Stream>>();
  /** Agents that tell when they have credit again. */
  readonly #watched = new Set<A>();
  readonly #balance: Balance;
  /** Callers that may wait. */
  readonly maxPending: number;
  readonly #of: string;
  readonly #random: () => number;
  #next = 0;
  #sealed = false;
  readonly #deserted = Promise.withResolvers<void>();
  #stopped = false;

  constructor(options: RegistryOptions) {
    this.#balance = options.balance;
    this.maxPending = options.maxPending;
    this.#of = options.group === undefined ? "" : ` of ${options.group}`;
    this.#random = options.random ?? Math.random;
  }

  get size(): number {
    return this.#agents.length;
  }

  /** Callers that wait. */
  get pending(): number {
    return this.#waiters.size;
  }

  add(agent: A): void {
    this.#agents.push(agent);
    this.#serve();
  }

  remove(agent: A): void {
    const index = this.#agents.indexOf(agent);
    if (index < 0) return;
    this.#agents.splice(index, 1);
    if (index < this.#next) this.#next--;
    if (this.#sealed) this.#refuseHopeless();
  }

  /**
   * Opens a stream to an agent. Waiting callers are served in order by the first agent with credit.
   *
   * @throws {NoAgentError} when none is available in time, or too many callers are already waiting
   */
  open(options: OpenOptions<A>): Promise<Opened<A, Stream>> {
    const { agentWaitMs, creditWaitMs, except = new Set() } = options;
    const opened = this.#open(except);
    if (opened) return Promise.resolve(opened);
    const waitMs = this.#hasOther(except) ? creditWaitMs : this.#sealed ? 0 : agentWaitMs;
    if (waitMs === 0 || this.#stopped) {
      return Promise.reject(new NoAgentError(this.#lack(except)));
    }
    if (this.#waiters.size >= this.maxPending) {
      return Promise.reject(
        new NoAgentError(
          `${this.#lack(except)}, and ${this.maxPending} clients are already waiting`,
        ),
      );
    }
    return this.#wait(waitMs, except);
  }

  /** Whether another agent could take a tunnel now. */
  hasAnother(than: A): boolean {
    return this.#agents.some((agent) => agent !== than && agent.isResponsive && agent.hasCredit);
  }

  /**
   * From now on, no agents are added. Callers that wait for one are refused.
   *
   * @returns resolves when no agent is left
   */
  seal(): Promise<void> {
    this.#sealed = true;
    this.#refuseHopeless();
    return this.#deserted.promise;
  }

  #refuseHopeless(): void {
    this.#refuse((waiter) => !this.#hasOther(waiter.except));
    if (this.#agents.length === 0) this.#deserted.resolve();
  }

  /** From now on, nobody waits. Waiting callers are refused. */
  stopWaiting(): void {
    this.#stopped = true;
    this.#refuse(() => true);
  }

  #refuse(which: (waiter: Waiter<A, Stream>) => boolean): void {
    for (const waiter of [...this.#waiters].filter(which)) {
      waiter.reject(new NoAgentError(this.#lack(waiter.except)));
    }
  }

  #wait(waitMs: number, except: ReadonlySet<A>): Promise<Opened<A, Stream>> {
    return new Promise((resolve, reject) => {
      const settle = () => {
        clearTimeout(timer);
        this.#waiters.delete(waiter);
      };
      const waiter: Waiter<A, Stream> = {
        except,
        resolve: (opened) => (settle(), resolve(opened)),
        reject: (error) => (settle(), reject(error)),
      };
      const timer = setTimeout(
        () => waiter.reject(new NoAgentError(`${this.#lack(except)} within ${waitMs} ms`)),
        waitMs,
      );
      this.#waiters.add(waiter);
      this.#watchCredit();
    });
  }

  #serve(): void {
    for (const waiter of [...this.#waiters]) {
      const opened = this.#open(waiter.except);
      if (opened) waiter.resolve(opened);
      // Nobody behind would get more.
      else if (waiter.except.size === 0) break;
    }
    if (this.#waiters.size > 0) this.#watchCredit();
  }

  #watchCredit(): void {
    for (const agent of this.#agents) {
      if (this.#watched.has(agent) || agent.hasCredit) continue;
      this.#watched.add(agent);
      agent.credit().then(() => {
        this.#watched.delete(agent);
        if (this.#agents.includes(agent)) this.#serve();
      });
    }
  }

  #open(except: ReadonlySet<A>): Opened<A, Stream> | undefined {
    const usable = (agent: A) => !except.has(agent) && agent.hasCredit;
    const index = this.#choose((agent) => agent.isResponsive && usable(agent)) ??
      this.#choose(usable);
    if (index === undefined) return undefined;
    this.#next = (index + 1) % this.#agents.length;
    const agent = this.#agents[index]!;
    return { agent, stream: agent.open() };
  }

  #choose(usable: (agent: A) => boolean): number | undefined {
    return choose(this.#balance, {
      candidates: this.#agents,
      next: this.#next,
      usable,
      random: this.#random,
    });
  }

  #hasOther(except: ReadonlySet<A>): boolean {
    return this.#agents.some((agent) => !except.has(agent));
  }

  /** What is missing, for the error message. */
  #lack(except: ReadonlySet<A>): string {
    const other = except.size > 0 ? "other " : "";
    return this.#hasOther(except)
      ? `no ${other}agent${this.#of} has a free stream`
      : `no ${other}agent${this.#of} is connected`;
  }
}
