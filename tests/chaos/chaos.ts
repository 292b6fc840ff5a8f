// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

// deno-lint-ignore-file no-console -- a command for the terminal

/**
 * `deno task chaos`: kills, stops, outages, bad links and slow peers, at random, under a load whose every byte is checked.
 *
 * What has to hold: a tunnel is right to its last byte, or fails so that its client sees it, and that only while
 * something happens that allows it. At the end nothing is left of any tunnel, and the memory of the pair that lived
 * through all of it is flat.
 */
import { runCommand } from "./command.ts";
import { Disruptions } from "./disruptions.ts";
import { Draws } from "./draws.ts";
import { type ChaosEvent, endings, harmless, outages } from "./events.ts";
import { Judge } from "./judge.ts";
import { Ledger } from "./ledger.ts";
import { Links } from "./link.ts";
import { MemoryTable } from "./memory_table.ts";
import { Report } from "./report.ts";
import { Scene, type SceneOptions } from "./scene.ts";

const CYCLE_S = 20;
const WARM_UP_MS = 10_000;
/** Quiet at the end, in which nothing allows a failure. */
const QUIET_MS = 5_000;

const HELP = `Breaks links and programs at random, under a load whose every byte is checked.

Usage: deno task chaos [options]

  --minutes N   how long, in cycles of ${CYCLE_S} s; default 10
  --seed N      what happens in which order; drawn by default
  --help        show this`;

interface Stage extends SceneOptions {
  /** What may happen there that makes tunnels fail. */
  readonly disruptions: Readonly<Record<string, ChaosEvent>>;
}

const stages: readonly Stage[] = [
  // Its programs live from the beginning to the end.
  { name: "steady", agents: [{ name: "steady-a" }], concurrency: 10, disruptions: outages },
  {
    name: "volatile",
    agents: [
      { name: "volatile-a" },
      { name: "volatile-raw", flags: { alpn: "quic-echo-example" } },
      { name: "volatile-few-files", maxFiles: 40 },
    ],
    concurrency: 14,
    disruptions: { ...outages, ...endings },
  },
  {
    name: "passthrough",
    agents: [{ name: "passthrough-a" }, { name: "passthrough-b" }],
    isPassthrough: true,
    concurrency: 8,
    disruptions: { ...outages, ...endings },
  },
];

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Returns whether everything held. */
async function chaos(
  options: { readonly seed: number; readonly cycles: number },
  folder: string,
  stack: AsyncDisposableStack,
): Promise<boolean> {
  const { seed, cycles } = options;
  const draws = new Draws(seed);
  const report = new Report();
  const ledger = new Ledger((what) => report.say(`VIOLATION: ${what}`));
  const disruptions = new Disruptions();
  const scenes = new Map<string, Scene>();
  const judge = new Judge(
    report,
    ledger,
    disruptions,
    (site, client) => scenes.get(site)?.site.watch.tunnelOf(client),
  );
  report.say(`seed ${seed}, ${cycles} cycles of ${CYCLE_S} s`);

  const links = stack.use(new Links());
  const context = { links, ledger, draws, folder, ended: judge.take.bind(judge) };
  for (const stage of stages) {
    scenes.set(stage.name, stack.use(await Scene.start(stage, context)));
    report.say(`${stage.name} is up`);
  }
  const steady = scenes.get("steady")!.site;
  const memory = new MemoryTable(steady.programs);
  const sampling = setInterval(() => {
    void memory.sample();
    for (const scene of scenes.values()) scene.check();
    judge.judge();
  }, 1_000);
  stack.defer(() => clearInterval(sampling));
  await sleep(WARM_UP_MS);
  memory.warm();

  const actors = stages.map((stage) => {
    const { site } = scenes.get(stage.name)!;
    const own = draws.part(`events of ${stage.name}`);
    const tell = (what: string) => report.say(`${site.name}: ${what}`);
    const context = { site, draws: own, disruptions, tell };
    const nextHarmless = own.bag(Object.entries(harmless));
    const nextDisruption = own.bag(Object.entries(stage.disruptions));
    return async () => {
      for (const [kind, run] of [nextHarmless(), nextHarmless(), nextDisruption()]) {
        await sleep(own.integer(0, 2_000));
        report.event(kind);
        await run(context);
      }
    };
  });
  for (let cycle = 1; cycle <= cycles; cycle++) {
    await Promise.all([sleep(CYCLE_S * 1000), ...actors.map((act) => act())]);
    report.say(`cycle ${cycle} of ${cycles}: ${report.tunnels} tunnels, ${ledger.summary}`);
  }
  await sleep(QUIET_MS);
  clearInterval(sampling);
  await Promise.all(Array.from(scenes.values(), (scene) => scene.end()));
  judge.judge(true);
  for (const violation of memory.violations) ledger.violated(violation);

  console.log(`\n${report}\n\n${memory}\n`);
  for (const violation of ledger.violations) console.log(`VIOLATION: ${violation}`);
  const { length } = ledger.violations;
  console.log(`${cycles} cycles, ${report.tunnels} tunnels, ${ledger.summary}, seed ${seed}`);
  console.log(length === 0 ? "PASS" : `FAIL: ${length} violations`);
  return length === 0;
}

if (import.meta.main) {
  await runCommand({
    help: HELP,
    flags: { minutes: 10 },
    run: ({ minutes, seed }, folder, stack) => {
      const cycles = Math.max(1, Math.round(minutes * 60 / CYCLE_S));
      return chaos({ seed, cycles }, folder, stack);
    },
  });
}
