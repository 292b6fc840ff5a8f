// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- a command for the terminal, which logs nothing

/**
 * `deno task bench`: what the tunnel takes in time, CPU and memory, beside what there would be without it.
 *
 * All of it on loopback, or between network namespaces of its own, and in turns, so that what else the machine does hits
 * all alike: the ratios mean something, the numbers alone only say how fast this machine was just then.
 */
import { writeCerts } from "../certs/make.ts";
import { messageOf, UsageError } from "../lib/errors.ts";
import { startProgress } from "../tools/progress.ts";
import { judge } from "./bars.ts";
import { measureBulk } from "./bulk.ts";
import { measureCarrier } from "./carrier.ts";
import { measureClients } from "./clients.ts";
import { countColumns, measureCounts } from "./counts.ts";
import { measureFairness } from "./fairness.ts";
import { Figures } from "./figures.ts";
import { measureGets } from "./gets.ts";
import { growthTable, measureGrowth } from "./growth.ts";
import { measureGroups } from "./groups.ts";
import { measureIdle } from "./idle.ts";
import { measureLossy } from "./lossy.ts";
import { measureMemory } from "./memory.ts";
import { measureLibrary } from "./library.ts";
import { HELP, parseOptions, type RowName, rowNames } from "./options.ts";
import { startPeers } from "./peers.ts";
import { barTable, crossTable, figureTable } from "./report.ts";
import { measureRestart } from "./restart.ts";
import type { Row } from "./row.ts";
import { measureTls } from "./tls.ts";
import { startOrigin } from "./tunnels.ts";

/** Everything together is given up after this. */
const TOTAL_MS = 900_000;

interface RowKind {
  readonly title: string;
  readonly measure: Row;
  /** What shows its figures. @default {figureTable} */
  readonly table?: typeof figureTable;
}

const rows: Readonly<Record<RowName, RowKind>> = {
  bulk: { title: "bytes through tunnels", measure: measureBulk },
  fairness: { title: "concurrent tunnels", measure: measureFairness },
  gets: { title: "a new connection and a GET", measure: measureGets },
  groups: { title: "several groups, a new connection and a GET", measure: measureGroups },
  clients: { title: "many clients", measure: measureClients },
  counts: {
    title: "each of some tunnels",
    measure: measureCounts,
    table: (title, figures) => crossTable(title, figures, countColumns),
  },
  growth: {
    title: "growth: in brackets, the ratios to the first",
    measure: measureGrowth,
    table: growthTable,
  },
  memory: { title: "resident memory", measure: measureMemory },
  idle: { title: "CPU at rest", measure: measureIdle },
  restart: { title: "starts", measure: measureRestart },
  lossy: { title: "20 MB at 50 ms", measure: measureLossy },
  tls: { title: "TLS clients", measure: measureTls },
  carrier: { title: "over TCP, and over UDP", measure: measureCarrier },
  library: { title: "agents on the binding, and on Deno's own QUIC", measure: measureLibrary },
};

/** Runs the benchmark; the result is the exit code. */
async function main(args: string[], signal: AbortSignal): Promise<number> {
  const { isShort, rows: names, peers: specs, json, fails, help } = parseOptions(args);
  if (help) {
    console.log(HELP);
    return 0;
  }
  const figures = new Figures();
  const notes: string[] = [];
  const broken: string[] = [];
  const note = (text: string) => void notes.push(text);
  const certificates = await Deno.makeTempDir({ prefix: "qrht-bench-" });
  try {
    await writeCerts(certificates);
    await using started = await startOrigin(signal);
    const origin = started.port;
    await using compared = await startPeers(specs, origin, signal);
    const { peers } = compared;
    using progress = startProgress(names.length);
    for (const [i, name] of names.entries()) {
      const { title, measure, table = figureTable } = rows[name];
      if (Deno.stderr.isTerminal()) progress.show(i, title);
      else console.error(`${name} ...`);
      try {
        await measure({ certificates, origin, peers, isShort, figures, signal, note });
      } catch (error) {
        signal.throwIfAborted();
        broken.push(`${name}: ${messageOf(error)}`);
      }
      const measured = figures.list(name);
      if (measured.length > 0) progress.write(`${table(title, measured)}\n`);
      for (const note of notes) progress.write(note);
      if (notes.length > 0) progress.write("");
      notes.length = 0;
    }
  } finally {
    await Deno.remove(certificates, { recursive: true });
  }
  const judged = judge(figures);
  const isPart = names.length < rowNames.length;
  const shown = judged.filter(({ spread }) => spread || !isPart);
  if (shown.length > 0) console.log(barTable(shown));
  for (const text of broken) console.error(`BROKEN ${text}`);
  if (json !== undefined) {
    const machine = { deno: Deno.version.deno, cpus: navigator.hardwareConcurrency, ...Deno.build };
    const results = { machine, isShort, figures: figures.list(), bars: judged, broken };
    await Deno.writeTextFile(json, `${JSON.stringify(results, null, 2)}\n`);
  }
  const isMissed = judged.some(({ missedBy }) => missedBy > 0);
  return broken.length > 0 || (fails && isMissed) ? 1 : 0;
}

/** Aborts when there was enough time, or at a signal to stop. */
function stopSignal(): AbortSignal {
  const controller = new AbortController();
  const stop = (name: string) => controller.abort(new Error(name));
  Deno.unrefTimer(setTimeout(stop, TOTAL_MS, `timed out after ${TOTAL_MS / 1000} s`));
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
