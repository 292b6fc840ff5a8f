// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { LogLine } from "./log_line.ts";

/** What a server's log has said of one tunnel. */
export interface ServedTunnel {
  readonly client: string;
  /** When it was accepted, by `Date.now()`. */
  readonly acceptedAt: number;
  /** Agents that it was tried with. */
  readonly agents: Set<string>;
}

/** Time for which ended tunnels can be asked for. */
const KEPT_MS = 60_000;

/** What clocks in whole milliseconds may be apart. */
const CLOCK_MS = 5;

/**
 * What a server's log says, as it comes: which agents are connected, and which tunnels are under way. Each tunnel that
 * was accepted has to be said to have ended.
 */
export class ServerWatch {
  /** Names of the agents that take tunnels, by the number of their connection. */
  readonly #agents = new Map<string, string>();
  readonly #open = new Map<string, ServedTunnel>();
  /** In the order of their ends. */
  readonly #ended: { readonly tunnel: ServedTunnel; readonly at: number }[] = [];

  /** Names of the agents that are connected, and take tunnels. */
  get agents(): string[] {
    return [...this.#agents.values()].sort();
  }

  /** Tunnels that were accepted and have not ended. */
  get openTunnels(): ReadonlyMap<string, ServedTunnel> {
    return this.#open;
  }

  /**
   * The tunnel of a client, which is known by its address: one after the other may come from the same.
   *
   * @param startedAt when the client began it, by `Date.now()`
   */
  tunnelOf(client: string, startedAt: number): ServedTunnel | undefined {
    const isIt = (tunnel: ServedTunnel) =>
      tunnel.client === client && tunnel.acceptedAt > startedAt - CLOCK_MS;
    return this.#ended.find(({ tunnel }) => isIt(tunnel))?.tunnel ??
      Array.from(this.#open.values()).find(isIt);
  }

  line(line: LogLine): void {
    const { message } = line;
    if (message === "agent connected") {
      this.#agents.set(line.field("connection")!, line.field("agent")!);
    } else if (message === "agent disconnected" || message === "agent is draining") {
      this.#agents.delete(line.field("connection")!);
    }
    const id = line.field("tunnel");
    if (id === undefined) return;
    if (message === "accepted tcp connection") {
      this.#open.set(id, {
        client: line.field("client")!,
        acceptedAt: line.time,
        agents: new Set(),
      });
      return;
    }
    const tunnel = this.#open.get(id);
    if (!tunnel) return;
    const agent = line.field("agent");
    if (agent !== undefined) tunnel.agents.add(agent);
    if (message === "tunnel ended" || message === "client refused") this.#end(id, tunnel);
  }

  #end(id: string, tunnel: ServedTunnel): void {
    this.#open.delete(id);
    this.#ended.push({ tunnel, at: performance.now() });
    while (performance.now() - this.#ended[0]!.at > KEPT_MS) this.#ended.shift();
  }

  /** The server is gone, and with it all that it had. */
  ended(): void {
    this.#agents.clear();
    for (const [id, tunnel] of [...this.#open]) this.#end(id, tunnel);
  }
}
