// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { type Progress, startProgress } from "../../tools/progress.ts";
import { Disruptions } from "./disruptions.ts";
import { Draws } from "./draws.ts";
import { Judge } from "./judge.ts";
import { Ledger } from "./ledger.ts";
import { Links } from "./link.ts";
import { MemoryTable } from "./memory_table.ts";
import type { Program } from "./program.ts";
import { Report } from "./report.ts";
import { Scene, type SceneOptions } from "./scene.ts";

const LOOK_AFTER_MS = 1_000;
const SHOW_MS = 500;

/** One run of a command of this folder: its scenes, and what has become of their tunnels. */
export class Trial {
  readonly draws: Draws;
  readonly report = new Report((line) => this.#progress.write(line));
  readonly disruptions = new Disruptions();
  readonly #ledger = new Ledger((what) => this.report.say(`VIOLATION: ${what}`));
  readonly #scenes = new Map<string, Scene>();
  readonly #judge = new Judge(
    this.report,
    this.#ledger,
    this.disruptions,
    ({ site, client, startedAt }) =>
      this.#scenes.get(site)?.site.watch.tunnelOf(client, performance.timeOrigin + startedAt),
  );
  readonly #progress: Progress;
  readonly #folder: string;
  readonly #stack: AsyncDisposableStack;
  readonly #links: Links;
  #memory: MemoryTable | undefined;
  #looking: ReturnType<typeof setInterval> | undefined;

  /**
   * @param stack takes what is to end with the command
   * @param total what there is to do, in any unit
   */
  constructor(seed: number, folder: string, stack: AsyncDisposableStack, total: number) {
    this.#progress = stack.use(startProgress(total));
    this.draws = new Draws(seed);
    this.#folder = folder;
    this.#stack = stack;
    this.#links = stack.use(new Links());
    stack.defer(() => clearInterval(this.#looking));
  }

  /** From now on, shows on a terminal how far it is: what is done of the total, and of which kind that is. */
  track(look: () => readonly [done: number, doing: string]): void {
    const showing = setInterval(() => this.#progress.show(...look()), SHOW_MS);
    this.#stack.defer(() => clearInterval(showing));
  }

  /** Tunnels and bytes so far, for one line. */
  get summary(): string {
    return `${this.report.tunnels} tunnels, ${this.#ledger.summary}`;
  }

  /** Starts the programs of a scene, and then the load. */
  async start(options: SceneOptions): Promise<Scene> {
    const scene = await Scene.start(options, {
      links: this.#links,
      ledger: this.#ledger,
      draws: this.draws,
      folder: this.#folder,
      ended: (outcome) => this.#judge.take(outcome),
    });
    this.#scenes.set(options.name, this.#stack.use(scene));
    this.report.say(`${options.name} is up`);
    return scene;
  }

  /** From now on, looks at all scenes again and again, and at the memory of some programs. */
  watch(programs: readonly Program[]): void {
    const memory = this.#memory = new MemoryTable(programs);
    void memory.sample();
    this.#looking = setInterval(() => {
      void memory.sample();
      for (const scene of this.#scenes.values()) scene.check();
      this.#judge.judge();
    }, LOOK_AFTER_MS);
  }

  /** Forgets how much memory there was so far: that was the warm-up. */
  warm(): void {
    this.#memory?.warm();
  }

  /** Ends all load and says how everything went. Returns whether everything held. */
  async conclude(): Promise<boolean> {
    clearInterval(this.#looking);
    // A short run may be over before the first look.
    await this.#memory?.sample();
    await Promise.all(Array.from(this.#scenes.values(), (scene) => scene.end()));
    this.#judge.judge(true);
    for (const violation of this.#memory?.violations ?? []) this.#ledger.violated(violation);
    this.#progress.write(`\n${this.report}\n\n${this.#memory}\n`);
    const { violations } = this.#ledger;
    for (const violation of violations) this.#progress.write(`VIOLATION: ${violation}`);
    this.#progress.write(`${this.summary}, seed ${this.draws.seed}`);
    this.#progress.write(
      violations.length === 0 ? "PASS" : `FAIL: ${violations.length} violations`,
    );
    return violations.length === 0;
  }
}
