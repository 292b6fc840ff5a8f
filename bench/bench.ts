// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- a command for the terminal, which logs nothing

/**
 * `deno task bench`: throughput of one download through the tunnel, on this project's driver and on the binding's own
 * classes, and without a tunnel; and the latency of new connections in both dialects.
 *
 * All of it on loopback, in turns, so that what else the machine does hits all alike: the ratios mean something, the
 * numbers alone only say how fast this machine was just then.
 */
import { parseArgs } from "node:util";
import { messageOf, UsageError } from "../lib/errors.ts";
import { dialects, type Latency, latencyRatio, latencyRows, measureLatency } from "./latency.ts";
import { Program } from "./program.ts";
import {
  alignColumns,
  cpuRatioOf,
  formatNotes,
  formatRatio,
  formatTable,
  ratioOf,
  type Results,
} from "./report.ts";
import { Subject } from "./subject.ts";
import { makeCertificates, startTunnel } from "./tunnels.ts";

const RUNS = 5;
const MIN_RUNS = 3;

/** No run but the first {@linkcode MIN_RUNS} is started after this. */
const RUNNING_MS = 90_000;

/** Everything together is given up after this. */
const TOTAL_MS = 170_000;

/** Some seconds of the driver's; with 10 MB it is slower, and scatters more. */
const FAST_BYTES = 200e6;
/** What the binding's classes take some seconds for; with more they are no faster. */
const SLOW_BYTES = 10e6;

const HELP =
  `Compares the tunnel in both dialects, a tunnel on the binding's own classes, and no tunnel.

Usage: deno task bench [options]

  --min-ratio N   fail when the tunnel moves less than N times what the binding's classes do
  --json FILE     write the results there too
  --help          show this`;

interface Measured {
  readonly results: Results;
  readonly latencies: readonly Latency[];
}

/** Starts everything, measures in turns, and ends everything. */
async function measure(directory: string, signal: AbortSignal): Promise<Measured> {
  await makeCertificates(directory);
  await using origin = new Program("origin.ts");
  const port = Number((await origin.said(/origin on 127\.0\.0\.1:(\d+)/, signal))[1]);
  const programs = { server: "../server.ts", agent: "../passthrough.ts" };
  const tunnel = (server: string, agent: string, alpn?: string) => () =>
    startTunnel({ server, agent }, port, directory, signal, alpn ? { alpn } : {});
  await using ours = new Subject({
    name: "this project's driver",
    bytes: FAST_BYTES,
    maxFailed: 0,
    start: tunnel(programs.server, programs.agent),
  });
  await using raw = new Subject({
    name: "the same, raw dialect",
    bytes: FAST_BYTES,
    maxFailed: 0,
    start: tunnel(programs.server, programs.agent, dialects.raw),
  });
  await using theirs = new Subject({
    name: "the binding's classes",
    bytes: SLOW_BYTES,
    maxFailed: 2,
    start: tunnel("binding_server.ts", "binding_agent.ts"),
  });
  await using direct = new Subject({
    name: "no tunnel",
    bytes: FAST_BYTES,
    maxFailed: 0,
    start: () => Promise.resolve({ port, programs: [], [Symbol.asyncDispose]: async () => {} }),
  });
  const subjects = [ours, raw, theirs, direct];
  for (const subject of subjects) await subject.open(signal);
  const since = performance.now();
  for (let i = 0; i < RUNS; i++) {
    if (i >= MIN_RUNS && performance.now() - since > RUNNING_MS) break;
    const rates: string[] = [];
    for (const subject of subjects) rates.push((await subject.run(signal)).toFixed(1));
    console.error(`run ${i + 1}: ${rates.join(", ")} MB/s`);
  }
  const latencies = await measureLatency(
    (alpn, via) => startTunnel(programs, port, directory, signal, { alpn, via }),
    signal,
  );
  return { results: [ours.result, raw.result, theirs.result, direct.result], latencies };
}

function parseOptions(args: string[]) {
  try {
    const { values } = parseArgs({
      args,
      options: {
        "min-ratio": { type: "string" },
        json: { type: "string" },
        help: { type: "boolean" },
      },
    });
    const minRatio = Number(values["min-ratio"] ?? 0);
    if (!(minRatio >= 0)) throw new Error(`--min-ratio ${values["min-ratio"]} is not a number`);
    return { minRatio, json: values.json, help: values.help };
  } catch (error) {
    throw new UsageError(messageOf(error), { cause: error });
  }
}

/** Runs the benchmark; the result is the exit code. */
async function main(args: string[], signal: AbortSignal): Promise<number> {
  const { minRatio, json, help } = parseOptions(args);
  if (help) {
    console.log(HELP);
    return 0;
  }
  const directory = await Deno.makeTempDir({ prefix: "qrht-bench-" });
  let measured: Measured;
  try {
    measured = await measure(directory, signal);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
  const { results, latencies } = measured;
  const [ours, raw, theirs, direct] = results;
  const ratio = ratioOf(ours, theirs);
  console.log(`${formatTable(results)}\n\n${formatNotes(results)}`);
  console.log(`\n${alignColumns(latencyRows(latencies))}\n`);
  const linkNames = [...new Set(latencies.map(({ link }) => link))];
  for (const link of linkNames) {
    const name = `new connection, ${link}, qrht/1 / the raw dialect`;
    console.log(formatRatio(name, latencyRatio(latencies, link), 2));
  }
  if (json !== undefined) {
    const machine = { deno: Deno.version.deno, cpus: navigator.hardwareConcurrency, ...Deno.build };
    const ratios = {
      throughputDriverToBinding: ratio,
      throughputDirectToDriver: ratioOf(direct, ours),
      throughputOwnToRaw: ratioOf(ours, raw),
      cpuBindingToDriver: cpuRatioOf(theirs, ours),
      latencyOwnToRaw: Object.fromEntries(
        linkNames.map((link) => [link, latencyRatio(latencies, link)]),
      ),
    };
    const text = JSON.stringify({ machine, results, latencies, ratios }, null, 2);
    await Deno.writeTextFile(json, `${text}\n`);
  }
  if (ratio.median >= minRatio) return 0;
  console.error(`the driver moves less than ${minRatio} times what the binding's classes move`);
  return 1;
}

/** Aborts when there was enough time, or at a signal to stop. */
function stopSignal(): AbortSignal {
  const controller = new AbortController();
  const stop = (name: string) => controller.abort(new Error(name));
  Deno.unrefTimer(setTimeout(stop, TOTAL_MS, `given up after ${TOTAL_MS / 1000} s`));
  Deno.addSignalListener("SIGINT", () => stop("stopped by SIGINT"));
  if (Deno.build.os !== "windows") {
    Deno.addSignalListener("SIGTERM", () => stop("stopped by SIGTERM"));
  }
  return controller.signal;
}

if (import.meta.main) {
  try {
    Deno.exit(await main(Deno.args, stopSignal()));
  } catch (error) {
    console.error(messageOf(error));
    Deno.exit(error instanceof UsageError ? 2 : 1);
  }
}
