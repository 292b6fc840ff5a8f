// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What the registry wants to know of an agent. */
export interface Agent {
  /** Whether a stream can be opened without waiting. */
  readonly hasCredit: boolean;
}

/** There is no agent, and there was none for as long as the caller wanted to wait. */
export class NoAgentError extends Error {
  override readonly name = "NoAgentError";
}

interface Waiter<A> {
  readonly except: ReadonlySet<A>;
  resolve(agent: A): void;
  reject(error: NoAgentError): void;
}

/** The agents that are connected, handed out in turn. */
export class AgentRegistry<A extends Agent> {
  readonly #agents: A[] = [];
  readonly #waiters = new Set<Waiter<A>>();
  readonly #maxWaiters: number;
  #next = 0;
  #stopped = false;

  /** @param options.maxWaiters callers that may wait for an agent at a time, default 1000 */
  constructor(options: { maxWaiters?: number } = {}) {
    this.#maxWaiters = options.maxWaiters ?? 1000;
  }

  get size(): number {
    return this.#agents.length;
  }

  /** Callers that wait for an agent. */
  get waiting(): number {
    return this.#waiters.size;
  }

  add(agent: A): void {
    this.#agents.push(agent);
    for (const waiter of [...this.#waiters]) {
      const taken = this.#take(waiter.except);
      if (taken) waiter.resolve(taken);
    }
  }

  remove(agent: A): void {
    const index = this.#agents.indexOf(agent);
    if (index < 0) return;
    this.#agents.splice(index, 1);
    if (index < this.#next) this.#next--;
  }

  /**
   * The agent whose turn it is; one without stream credit is passed over while another has some.
   *
   * @param waitMs how long to wait for an agent when there is none; 0 for not at all
   * @param except agents that will not do
   * @throws {NoAgentError} when there was none in that time, or too many callers wait for one already
   */
  pick(waitMs: number, except: ReadonlySet<A> = new Set()): Promise<A> {
    const agent = this.#take(except);
    if (agent) return Promise.resolve(agent);
    const none = except.size > 0 ? "no other agent is connected" : "no agent is connected";
    if (waitMs === 0 || this.#stopped) return Promise.reject(new NoAgentError(none));
    if (this.#waiters.size >= this.#maxWaiters) {
      return Promise.reject(
        new NoAgentError(`${none}, and ${this.#maxWaiters} connections wait for one`),
      );
    }
    return new Promise((resolve, reject) => {
      const settle = () => {
        clearTimeout(timer);
        this.#waiters.delete(waiter);
      };
      const waiter: Waiter<A> = {
        except,
        resolve: (agent) => (settle(), resolve(agent)),
        reject: (error) => (settle(), reject(error)),
      };
      const timer = setTimeout(
        () => waiter.reject(new NoAgentError(`no agent connected within ${waitMs} ms`)),
        waitMs,
      );
      this.#waiters.add(waiter);
    });
  }

  /** Nobody waits any longer, from now on: whoever does is refused. */
  stopWaiting(): void {
    this.#stopped = true;
    for (const waiter of [...this.#waiters]) {
      waiter.reject(new NoAgentError("no agent is connected"));
    }
  }

  #take(except: ReadonlySet<A>): A | undefined {
    const count = this.#agents.length;
    let full: number | undefined;
    for (let tried = 0; tried < count; tried++) {
      const index = (this.#next + tried) % count;
      const agent = this.#agents[index]!;
      if (except.has(agent)) continue;
      if (agent.hasCredit) return this.#handOut(index);
      full ??= index;
    }
    return full === undefined ? undefined : this.#handOut(full);
  }

  #handOut(index: number): A {
    this.#next = (index + 1) % this.#agents.length;
    return this.#agents[index]!;
  }
}
