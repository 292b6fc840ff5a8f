// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * `deno task soak`: many short tunnels one after the other, which begin and end in all the ways there are.
 *
 * All of them have to be right; at the end nothing is left of any, and the memory of the programs is flat.
 */
import { runCommand } from "./command.ts";
import type { KindName } from "./kinds.ts";
import type { SceneOptions } from "./scene.ts";
import { Trial } from "./trial.ts";

const CONCURRENCY = 50;
/** Share of the tunnels that are there for the programs to warm up. */
const WARM_UP = 0.1;
const TELL_MS = 10_000;

const HELP = `Opens many short tunnels, ${CONCURRENCY} at a time, and verifies every byte.

Usage: deno task soak [options]

  --tunnels N   number of tunnels (default: 100000)
  --seed N      selects the kinds of tunnels (default: random)
  --help        show this help`;

const kinds: readonly KindName[] = [
  "request",
  "target ends",
  "client half-closes",
  "target half-closes",
  "client resets",
  "client leaves",
  "refused",
  "half a head, left",
];

/** A few kilobytes each, and hardly a pause. */
const SCALE = 0.02;

const scenes: readonly Omit<SceneOptions, "load">[] = [
  { name: "connect", agents: [{ name: "connect-a" }] },
  { name: "passthrough", agents: [{ name: "passthrough-a" }], isPassthrough: true },
];

/** Returns whether everything held. */
async function soak(trial: Trial, tunnels: number): Promise<boolean> {
  const { report } = trial;
  report.say(`${tunnels} tunnels, seed ${trial.draws.seed}`);
  const concurrency = CONCURRENCY / scenes.length;
  const count = Math.ceil(tunnels / scenes.length);
  const load = { concurrency, count, kinds, scale: SCALE };
  const started = await Promise.all(scenes.map((scene) => trial.start({ ...scene, load })));
  const since = performance.now();
  trial.track(() => [report.tunnels, `${report.tunnels} of ${tunnels} tunnels`]);
  const telling = setInterval(() => report.say(trial.summary), TELL_MS);
  try {
    const ended = Promise.all(started.map(({ loadEnded }) => loadEnded));
    await Promise.race([ended, report.tunnelsReach(tunnels * WARM_UP)]);
    trial.watch(started.flatMap(({ site }) => site.programs));
    await ended;
  } finally {
    clearInterval(telling);
  }
  const seconds = (performance.now() - since) / 1000;
  report.say(`${(report.tunnels / seconds).toFixed(0)} tunnels a second`);
  return await trial.conclude();
}

if (import.meta.main) {
  await runCommand({
    help: HELP,
    flags: { tunnels: 100_000 },
    run: ({ tunnels, seed }, folder, stack) =>
      soak(new Trial(seed, folder, stack, tunnels), tunnels),
  });
}
