// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { lookAt } from "../../tools/process_look.ts";
import { eventually } from "../support/eventually.ts";
import type { Route } from "./client_tunnel.ts";
import type { Draws } from "./draws.ts";
import type { Ledger } from "./ledger.ts";
import type { Links } from "./link.ts";
import { Load, type LoadPlan, type Outcome } from "./load.ts";
import { type AgentOptions, Site } from "./site.ts";
import { Target } from "./target.ts";

export interface SceneOptions {
  readonly name: string;
  readonly agents: readonly AgentOptions[];
  /** Whether its agents connect everything to one upstream, which speaks first. */
  readonly isPassthrough?: boolean;
  /** Groups of agents, each with a listener of its own: the beginnings of their names. */
  readonly groups?: readonly string[];
  readonly load: LoadPlan;
}

export interface SceneContext {
  readonly links: Links;
  readonly ledger: Ledger;
  readonly draws: Draws;
  readonly folder: string;
  ended(outcome: Outcome): void;
}

/** Time after the load until nothing may be left: more than the longest wait of the programs. */
const EMPTY_AFTER_MS = 30_000;
/** How long tunnels under way may go on when the load ends. */
const LOAD_ENDS_MS = 90_000;
/** Files that a program may have open beyond those it began with: what its runtime opens on demand. */
const MORE_FILES = 4;

/** A site with its targets, and the load on it. */
export class Scene implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack();
  readonly #targets: Target[] = [];
  readonly #ledger: Ledger;
  /** Files that each program had open before there was any tunnel. */
  readonly #files = new Map<string, number>();
  #site!: Site;
  #load!: Load;

  private constructor(ledger: Ledger) {
    this.#ledger = ledger;
  }

  /** Starts the programs, and then the load. */
  static async start(options: SceneOptions, context: SceneContext): Promise<Scene> {
    const scene = new Scene(context.ledger);
    try {
      await scene.#start(options, context);
      return scene;
    } catch (error) {
      await scene[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #start(options: SceneOptions, context: SceneContext): Promise<void> {
    const { name, agents, groups, isPassthrough = false, load } = options;
    const { links, ledger, draws, folder, ended } = context;
    const target = (speaksFirst: boolean) => {
      const target = this.#stack.use(new Target("127.0.0.1", speaksFirst, ledger));
      this.#targets.push(target);
      return target;
    };
    const greeting = target(true);
    const plain = isPassthrough ? undefined : target(false);
    const site = this.#site = this.#stack.use(
      await Site.start({
        name,
        agents,
        ...(groups && { groups }),
        folder,
        draws: draws.part(name),
        ...(isPassthrough && { upstream: greeting.address }),
        violated: (what) => ledger.violated(what),
      }, links),
    );
    for (const [pid, { files }] of await lookAt(site.programs.map(({ pid }) => pid))) {
      this.#files.set(site.programs.find((program) => program.pid === pid)!.name, files);
    }
    const routes = site.tcpPorts.flatMap((port): Route[] => {
      const way = { hostname: "127.0.0.1", port };
      return plain
        ? [
          { ...way, target: plain.address, isGreeted: false },
          { ...way, target: greeting.address, isGreeted: true },
        ]
        : [{ ...way, target: undefined, isGreeted: true }];
    });
    this.#load = new Load({
      ...load,
      site: name,
      routes,
      draws: draws.part(`load of ${name}`),
      ledger,
      ended,
    });
  }

  get site(): Site {
    return this.#site;
  }

  /** Resolves when the load has ended by itself. */
  get loadEnded(): Promise<unknown> {
    return this.#load.ended;
  }

  /** Sees to it that no target has a connection that nobody knows of any more. */
  check(): void {
    const forgotten = this.#targets.reduce((sum, target) => sum + target.forgotten(), 0);
    if (forgotten > 0) {
      this.#ledger.violated(`${this.site.name}: ${forgotten} connections to targets are forgotten`);
    }
  }

  /** Ends the load, and sees to it that nothing is left of it. */
  async end(): Promise<void> {
    const { name, programs, watch } = this.site;
    const timer = setTimeout(
      () => this.#ledger.violated(`${name}: the load does not end`),
      LOAD_ENDS_MS,
    );
    await this.#load.end();
    clearTimeout(timer);
    await this.site.recovered();
    let left: string[] = [];
    await eventually(`nothing is left at ${name}`, async () => {
      left = [];
      const connections = this.#targets.reduce((sum, { size }) => sum + size, 0);
      if (connections > 0) left.push(`${connections} connections to targets`);
      for (const [id, { client }] of watch.openTunnels) left.push(`tunnel ${id} of ${client}`);
      const looks = await lookAt(programs.map(({ pid }) => pid));
      for (const program of programs) {
        const { tcpSockets, files } = looks.get(program.pid)!;
        if (tcpSockets !== this.site.socketsOf(program)) {
          left.push(`${tcpSockets} TCP sockets of ${program.name}`);
        }
        const before = this.#files.get(program.name)!;
        if (files > before + MORE_FILES) {
          left.push(`${files} files of ${program.name}, which began with ${before}`);
        }
      }
      return left.length === 0;
    }, EMPTY_AFTER_MS).catch(() => this.#ledger.violated(`${name}: left are ${left.join(", ")}`));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}
