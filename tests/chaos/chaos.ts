// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * `deno task chaos`: kills, stops, outages, bad links and slow peers, at random, under a load whose every byte is checked.
 *
 * What has to hold: a tunnel is right to its last byte, or fails so that its client sees it, and that only while
 * something happens that allows it. At the end nothing is left of any tunnel, and the memory of the pair that lived
 * through all of it is flat.
 */
import { delay } from "@std/async/delay";
import { runCommand } from "./command.ts";
import {
  blockUdp,
  carrierOutages,
  type ChaosEvent,
  endings,
  harmless,
  harmlessToCarriers,
  outages,
} from "./events.ts";
import type { Program } from "./program.ts";
import type { SceneOptions } from "./scene.ts";
import type { Site } from "./site.ts";
import { Trial } from "./trial.ts";

const CYCLE_S = 20;
const WARM_UP_MS = 10_000;
/** Quiet at the end, in which nothing allows a failure. */
const QUIET_MS = 5_000;

const HELP = `Breaks links and programs at random under load, and verifies every byte.

Usage: deno task chaos [options]

  --minutes N   duration, in cycles of ${CYCLE_S} s (default: 10)
  --seed N      selects the faults and their order (default: random)
  --help        show this help`;

/** Cycles that a move to TCP and back may take. */
const MOVE_CYCLES = 3;

interface Stage extends SceneOptions {
  /** What may happen there that nobody may notice. @default {harmless} */
  readonly harmless?: Readonly<Record<string, ChaosEvent>>;
  /** What may happen there that makes tunnels fail. */
  readonly disruptions: Readonly<Record<string, ChaosEvent>>;
}

/** Its programs live from the beginning to the end. */
const steady: Stage = {
  name: "steady",
  agents: [{ name: "steady-a" }],
  load: { concurrency: 14 },
  disruptions: outages,
};

/** Its server also listens for carriers. No program ends but that of the agent that uses what there is. */
const carriers: Stage = {
  name: "carriers",
  agents: [
    { name: "carriers-a", transport: "tcp" },
    { name: "carriers-b", transport: "tcp" },
    { name: "carriers-auto", transport: "auto" },
  ],
  load: { concurrency: 12 },
  harmless: harmlessToCarriers,
  disruptions: carrierOutages,
};

/** Of agents on Deno's own QUIC. */
const onDeno = { "quic-library": "deno" };

const stages: readonly Stage[] = [
  steady,
  {
    name: "volatile",
    agents: [
      { name: "volatile-a" },
      { name: "volatile-raw", flags: { alpn: "quic-echo-example" } },
      { name: "volatile-few-files", maxFiles: 33 },
      { name: "volatile-deno", flags: onDeno },
    ],
    load: { concurrency: 20 },
    disruptions: { ...outages, ...endings },
  },
  {
    name: "passthrough",
    agents: [{ name: "passthrough-a" }, { name: "passthrough-b", flags: onDeno }],
    isPassthrough: true,
    load: { concurrency: 12 },
    disruptions: { ...outages, ...endings },
  },
  {
    name: "networks",
    agents: ["a-1", "a-2", "b-1", "b-2"].map((name) => ({ name })),
    groups: ["a", "b"],
    load: { concurrency: 12 },
    disruptions: { ...outages, ...endings },
  },
  carriers,
];

/** How long it takes, without its start and the judgement at the end. */
const totalMs = (cycles: number) => WARM_UP_MS + cycles * CYCLE_S * 1000 + QUIET_MS;

/** Returns whether everything held. */
async function chaos(trial: Trial, cycles: number): Promise<boolean> {
  const { report, draws } = trial;
  report.say(`${cycles} cycles of ${CYCLE_S} s, seed ${draws.seed}`);
  const actors: (() => Promise<void>)[] = [];
  const watched: Program[] = [];
  let move = () => Promise.resolve();
  for (const stage of stages) {
    const { site } = await trial.start(stage);
    actors.push(actor(stage, site, trial));
    if (stage === steady) watched.push(...site.programs);
    if (stage !== carriers) continue;
    move = mover(site, trial);
    const moves = site.agents.find(({ transport }) => transport === "auto")!;
    watched.push(...site.programs.filter((program) => program !== moves.program));
  }
  trial.watch(watched);
  const since = performance.now();
  let doing = "warming up";
  trial.track(() => [Math.min(performance.now() - since, totalMs(cycles)), doing]);
  await delay(WARM_UP_MS);
  trial.warm();
  let moving = Promise.resolve();
  for (let cycle = 1; cycle <= cycles; cycle++) {
    if (cycle % MOVE_CYCLES === 1) {
      await moving;
      moving = move();
    }
    doing = `cycle ${cycle} of ${cycles}`;
    await Promise.all([delay(CYCLE_S * 1000), ...actors.map((act) => act())]);
    report.say(`cycle ${cycle} of ${cycles}: ${trial.summary}`);
  }
  await moving;
  doing = "quiet at the end";
  await delay(QUIET_MS);
  return await trial.conclude();
}

/** Has the agent that may use either transport move to the other one and back, which takes longer than a cycle. */
function mover(site: Site, trial: Trial): () => Promise<void> {
  const { report, disruptions } = trial;
  const draws = trial.draws.part(`moves at ${site.name}`);
  const tell = (what: string) => report.say(`${site.name}: ${what}`);
  const kind = "blocked UDP";
  return async () => {
    report.event(kind);
    await blockUdp({ kind, site, draws, disruptions, tell });
  };
}

/** Makes things happen at a site, those of one cycle at each call. */
function actor(stage: Stage, site: Site, trial: Trial): () => Promise<void> {
  const { report, disruptions } = trial;
  const draws = trial.draws.part(`events of ${site.name}`);
  const tell = (what: string) => report.say(`${site.name}: ${what}`);
  const nextHarmless = draws.bag(Object.entries(stage.harmless ?? harmless));
  const nextDisruption = draws.bag(Object.entries(stage.disruptions));
  return async () => {
    for (const [kind, run] of [nextHarmless(), nextHarmless(), nextDisruption()]) {
      await delay(draws.integer(0, 2_000));
      report.event(kind);
      await run({ kind, site, draws, disruptions, tell });
    }
  };
}

if (import.meta.main) {
  await runCommand({
    help: HELP,
    flags: { minutes: 10 },
    run: ({ minutes, seed }, folder, stack) => {
      const cycles = Math.max(1, Math.round(minutes * 60 / CYCLE_S));
      return chaos(new Trial(seed, folder, stack, totalMs(cycles)), cycles);
    },
  });
}
