// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Transport } from "../../lib/agent/transport_policy.ts";
import { eventually } from "../support/eventually.ts";
import { Certificates } from "./certificates.ts";
import type { Draws } from "./draws.ts";
import type { CarrierLink, Link, Links } from "./link.ts";
import type { LogLine } from "./log_line.ts";
import { Program, type ProgramOptions } from "./program.ts";
import { ServerWatch } from "./server_watch.ts";

export interface AgentOptions {
  readonly name: string;
  readonly flags?: Readonly<Record<string, string>>;
  /** What it may use, if not UDP alone. */
  readonly transport?: "tcp" | "auto";
  /** Files that it may have open. */
  readonly maxFiles?: number;
}

interface SiteOptions {
  readonly name: string;
  readonly agents: readonly AgentOptions[];
  /** Where its agents connect everything to; undefined when they serve CONNECT. */
  readonly upstream?: string;
  /** Groups of agents, each with a listener of its own: `a` is that of `a-1` and `a-2`. @default {} one of all */
  readonly groups?: readonly string[];
  readonly folder: string;
  readonly draws: Draws;
  violated(what: string): void;
}

/** An agent, and the link over which it reaches its server. */
export interface SiteAgent {
  readonly name: string;
  readonly program: Program;
  readonly link: Link;
  /** What its connections over TCP go through, if it may have some. */
  readonly carrier: CarrierLink | undefined;
  readonly transport: AgentOptions["transport"];
  /** Whether it speaks the raw dialect only, in which nobody tries again. */
  readonly isRaw: boolean;
}

/** Time for tunnels when a program is told to stop. */
export const DRAIN_MS = 4_000;

/** The longest pause between two attempts of an agent, and time for the attempt, doubled for a busy machine. */
const RECOVERY_MS = 45_000;

/** How long everybody must have been connected for a site to count as recovered. */
const STEADY_MS = 2_000;

/** Some intervals at which the programs look at their files by themselves. */
const RELOAD_MS = 35_000;

/** A server with its agents, each behind a link of its own. */
export class Site implements AsyncDisposable {
  readonly watch = new ServerWatch();
  readonly agents: SiteAgent[] = [];
  /** Connections to the server that each agent says it has, and what they go over. */
  readonly #connections = new Map<string, Map<string, Transport>>();
  /** How often each program has said that it has new certificates. */
  readonly #reloads = new Map<string, number>();
  #canReload = false;

  private constructor(
    readonly options: SiteOptions,
    readonly certificates: Certificates,
    readonly tcpPorts: readonly number[],
    readonly server: Program,
    readonly fallbackPort: number | undefined,
  ) {}

  /** Starts everything, and waits until all agents are connected. */
  static async start(options: SiteOptions, links: Links): Promise<Site> {
    const { name, agents, folder, draws } = options;
    const names = ["server", ...agents.map(({ name }) => name)];
    const certificates = await Certificates.create(`${folder}/${name}`, names);
    const groups = options.groups ?? [undefined];
    const listeners = groups.map((group) => ({ group, port: freePort(draws, "tcp") }));
    const quicPort = freePort(draws, "udp");
    const hasCarriers = agents.some(({ transport }) => transport !== undefined);
    const fallbackPort = hasCarriers ? freePort(draws, "tcp") : undefined;
    const site: Site = new Site(
      options,
      certificates,
      listeners.map(({ port }) => port),
      new Program({
        name: `${name} server`,
        task: "server",
        flags: {
          "listen-quic": `127.0.0.1:${quicPort}`,
          ...(hasCarriers && { "listen-fallback": `127.0.0.1:${fallbackPort}` }),
          "connect-timeout": "15s",
          ...certificates.flagsOf("server"),
          ...commonFlags,
        },
        args: listeners.map(({ group, port }) =>
          `--listen-tcp=127.0.0.1:${port}${group ? `@${group}-*` : ""}`
        ),
        logFile: `${folder}/${name}/server.log`,
        readyAt: "quic listener on",
        line: (line) => site.#serverLine(line),
        ended: () => site.watch.ended(),
        violated: options.violated,
      }),
      fallbackPort,
    );
    try {
      for (const agent of agents) {
        const server = { hostname: "127.0.0.1", port: quicPort };
        const link = await links.open(server, draws.integer(1, 1e9));
        const carrier = agent.transport && await links.openCarrier(
          { ...server, port: fallbackPort! },
          freePort(draws, "tcp"),
        );
        site.#addAgent(agent, link, carrier);
      }
      await site.server.start();
      await Promise.all(site.agents.map(({ program }) => program.start()));
      await site.recovered();
      return site;
    } catch (error) {
      await site[Symbol.asyncDispose]();
      throw error;
    }
  }

  get name(): string {
    return this.options.name;
  }

  get programs(): Program[] {
    return [this.server, ...this.agents.map(({ program }) => program)];
  }

  /** Whether the programs can be given new certificates while they run. */
  get canReload(): boolean {
    return this.#canReload;
  }

  #addAgent(agent: AgentOptions, link: Link, carrier: CarrierLink | undefined): void {
    const { name, flags = {}, maxFiles, transport } = agent;
    const { upstream, violated, folder } = this.options;
    const options: ProgramOptions = {
      name: `${this.name} ${name}`,
      task: upstream === undefined ? "agent" : "passthrough",
      flags: {
        "server": `127.0.0.1:${link.port}`,
        ...this.certificates.flagsOf(name),
        ...(upstream !== undefined && { upstream }),
        ...(carrier && transport && { transport, fallback: `127.0.0.1:${carrier.port}` }),
        ...commonFlags,
        ...flags,
      },
      maxFiles,
      logFile: `${folder}/${this.name}/${name}.log`,
      readyAt: "connected to quic server",
      line: (line) => this.#agentLine(name, line),
      ended: () => this.#connections.get(name)?.clear(),
      violated,
    };
    this.#connections.set(name, new Map());
    const isRaw = flags.alpn !== undefined && !flags.alpn.includes("qrht/1");
    this.agents.push({ name, program: new Program(options), link, carrier, transport, isRaw });
  }

  #serverLine(line: LogLine): void {
    this.watch.line(line);
    const [, group] = /^"(.+-)\*"$/.exec(line.field("group") ?? "") ?? [];
    const agent = line.field("agent");
    if (group && agent && !agent.startsWith(group)) {
      this.options.violated(`${this.name}: ${agent} has a tunnel of ${group}`);
    }
    this.#tlsLine("server", line);
  }

  #agentLine(name: string, line: LogLine): void {
    const connections = this.#connections.get(name)!;
    const connection = line.field("connection")!;
    if (line.message === "connected to quic server") {
      connections.set(connection, line.field("transport") === "tcp" ? "tcp" : "udp");
    }
    // Another connection takes the place of the one that there may be.
    if (line.message === "transport changed") connections.clear();
    if (line.message === "disconnected from quic server") connections.delete(connection);
    this.#tlsLine(name, line);
  }

  #tlsLine(name: string, { message }: LogLine): void {
    if (message === "certificates loaded") this.#canReload = true;
    if (message === "certificates reloaded") {
      this.#reloads.set(name, (this.#reloads.get(name) ?? 0) + 1);
    }
  }

  /** Writes the certificates and has all programs take them. */
  async reload(): Promise<void> {
    const before = new Map(this.#reloads);
    await this.certificates.write();
    for (const program of this.programs) program.signal("SIGHUP");
    const names = ["server", ...this.agents.map(({ name }) => name)];
    const late = () =>
      names.filter((name) => (this.#reloads.get(name) ?? 0) === (before.get(name) ?? 0));
    await eventually(`certificates reloaded at ${this.name}`, () => late().length === 0, RELOAD_MS)
      .catch(() => this.options.violated(`${this.name}: not reloaded by ${late()}`));
  }

  /** What an agent's only connection goes over. */
  transportOf(name: string): Transport | undefined {
    const [transport, ...more] = this.#connections.get(name)?.values() ?? [];
    return more.length === 0 ? transport : undefined;
  }

  /** TCP sockets that a program has without any tunnel. */
  socketsOf(program: Program): number {
    const carriers = (agents: readonly SiteAgent[]) =>
      agents.filter(({ name }) => this.transportOf(name) === "tcp").length;
    if (program !== this.server) {
      return carriers(this.agents.filter((agent) => agent.program === program));
    }
    const listening = this.tcpPorts.length + (this.fallbackPort === undefined ? 0 : 1);
    return listening + carriers(this.agents);
  }

  /** Waits until every agent is connected, once each, and both ends know it. */
  async recovered(): Promise<void> {
    const expected = this.agents.map(({ name }) => name).sort().join();
    let since = Infinity;
    await eventually(`${this.name} recovers`, () => {
      const isWhole = this.watch.agents.join() === expected &&
        Array.from(this.#connections.values()).every(({ size }) => size === 1);
      since = isWhole ? Math.min(since, performance.now()) : Infinity;
      return performance.now() - since >= STEADY_MS;
    }, RECOVERY_MS).catch(() => {
      this.options.violated(
        `${this.name} does not recover: the server has ${this.watch.agents}, ` +
          `the agents have ${
            Array.from(this.#connections, ([name, { size }]) => `${name} ${size}`)
          }`,
      );
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.programs.map((program) => program[Symbol.asyncDispose]()));
  }
}

const commonFlags = {
  "drain-timeout": `${DRAIN_MS}ms`,
  "half-open-timeout": "20s",
  "v": 2,
};

/** A port that systems do not give to clients, so that none takes it while the server is away. */
function freePort(draws: Draws, transport: "tcp" | "udp"): number {
  for (;;) {
    const options = { hostname: "127.0.0.1", port: draws.integer(20_000, 32_000) };
    try {
      if (transport === "tcp") Deno.listen(options).close();
      else Deno.listenDatagram({ transport, ...options }).close();
      return options.port;
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
}
