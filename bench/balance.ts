// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- a command for the terminal, which logs nothing

/**
 * `deno task bench-balance`: what clients get by each rule of `--balance` when one of three agents is slow.
 *
 * Clients come at a fixed rate, whether or not the ones before have been served: what counts is how long each waits.
 */
import { delay } from "@std/async/delay";
import { writeCerts } from "../certs/make.ts";
import { messageOf } from "../lib/errors.ts";
import { type Balance, balances } from "../lib/server/balance.ts";
import { UdpRelay } from "../tests/support/udp_relay.ts";
import { alignColumns } from "../tools/columns.ts";
import { agentFlags, anyPort, serverFlags } from "../tools/project_program.ts";
import { type Program, projectProgram } from "./program.ts";
import { spreadOf } from "./statistics.ts";
import { transfer } from "./transfer.ts";
import { startOrigin } from "./tunnels.ts";
import { straight } from "./way.ts";

/** Rounds of each rule, in turns. */
const ROUNDS = 3;
const CLIENTS = 600;
const CLIENTS_PER_SECOND = 150;
const BYTES = 20_000;
/** Of a round. */
const MAX_FAILED = CLIENTS / 20;

/** Everything together is given up after this. */
const TOTAL_MS = 170_000;

/** Makes the third of the agents slow, until it is disposed of. */
interface Slowness {
  readonly name: string;
  /** Port that it connects to. */
  via(started: AsyncDisposableStack, quicPort: number): number;
  begin(agent: Program): Disposable;
}

/** A process that runs for this share of the time only, as one does whose CPU quota is used up. */
const STARVED = { periodMs: 100, runningMs: 10 };

const slownesses: readonly Slowness[] = [
  {
    name: "100 ms away",
    via: (started, port) =>
      started.use(new UdpRelay({ hostname: "127.0.0.1", port }, { delayMs: 50 })).addr.port,
    begin: () => ({ [Symbol.dispose]: () => {} }),
  },
  {
    name: "with a tenth of a CPU",
    via: (_, port) => port,
    begin({ pid }) {
      let resume: ReturnType<typeof setTimeout> | undefined;
      const pause = setInterval(() => {
        Deno.kill(pid, "SIGSTOP");
        resume = setTimeout(
          () => Deno.kill(pid, "SIGCONT"),
          STARVED.periodMs - STARVED.runningMs,
        );
      }, STARVED.periodMs);
      return {
        [Symbol.dispose]() {
          clearInterval(pause);
          clearTimeout(resume);
          Deno.kill(pid, "SIGCONT");
        },
      };
    },
  },
];

/** What clients of a round got. */
interface Round {
  /** Times to the last byte of each, in milliseconds, in ascending order. */
  readonly times: readonly number[];
  /** Clients that got no answer: who shares a busy machine with a starved agent may lose it. */
  readonly failed: number;
}

/** @throws {Error} when more than {@linkcode MAX_FAILED} of the clients fail */
async function measure(
  balance: Balance,
  slowness: Slowness,
  originPort: number,
  directory: string,
  signal: AbortSignal,
): Promise<Round> {
  await using started = new AsyncDisposableStack();
  const server = started.use(
    projectProgram("server", {
      ...anyPort,
      ...serverFlags(directory),
      balance,
    }),
  );
  const [, quicPort] = await server.said(/quic listener on 127\.0\.0\.1:(\d+)/, signal);
  const [, port] = await server.said(/tcp listener on 127\.0\.0\.1:(\d+)/, signal);
  const ports = [Number(quicPort), Number(quicPort), slowness.via(started, Number(quicPort))];
  const agents = ports.map((port) =>
    started.use(
      projectProgram("passthrough", {
        server: `127.0.0.1:${port}`,
        upstream: `127.0.0.1:${originPort}`,
        ...agentFlags(directory),
      }),
    )
  );
  await server.said(/agent connected.* agents=3\b/, signal);
  const download = async () => {
    const { seconds } = await transfer({ way: straight(Number(port)), bytes: BYTES, signal });
    return seconds;
  };
  for (let i = 0; i < 30; i++) await download();
  using _slow = slowness.begin(agents[2]!);
  const times: number[] = [];
  const errors: unknown[] = [];
  const downloads: Promise<void>[] = [];
  const since = performance.now();
  for (let i = 0; i < CLIENTS; i++) {
    const waitMs = since + (i * 1_000) / CLIENTS_PER_SECOND - performance.now();
    if (waitMs > 0) await delay(waitMs);
    downloads.push(
      download().then((seconds) => void times.push(seconds * 1_000), (error) => {
        errors.push(error);
      }),
    );
  }
  await Promise.all(downloads);
  signal.throwIfAborted();
  if (errors.length > MAX_FAILED) {
    const which = `${errors.length} of ${CLIENTS} clients failed with --balance=${balance}`;
    throw new Error(`${which}, the first one with: ${messageOf(errors[0])}`);
  }
  return { times: times.sort((a, b) => a - b), failed: errors.length };
}

const shown = { mean: -1, p50: 0.5, p90: 0.9, p99: 0.99 };

function statistic(times: readonly number[], share: number): number {
  if (share >= 0) return times[Math.floor(times.length * share)]!;
  return times.reduce((sum, time) => sum + time, 0) / times.length;
}

async function main(signal: AbortSignal): Promise<void> {
  const directory = await Deno.makeTempDir({ prefix: "qrht-bench-" });
  try {
    await writeCerts(directory);
    await using origin = await startOrigin(signal);
    const rows = [["ms for a client", "rounds", ...Object.keys(shown), "failed"]];
    for (const slowness of slownesses) {
      const rounds = new Map<Balance, Round[]>(balances.map((balance) => [balance, []]));
      for (let round = 0; round < ROUNDS; round++) {
        for (const [balance, results] of rounds) {
          results.push(await measure(balance, slowness, origin.port, directory, signal));
        }
        console.error(`one of three agents ${slowness.name}: round ${round + 1}`);
      }
      for (const [balance, results] of rounds) {
        const medians = Object.values(shown).map((share) =>
          spreadOf(results.map(({ times }) => statistic(times, share))).median.toFixed(1)
        );
        const failed = results.reduce((sum, { failed }) => sum + failed, 0).toFixed();
        const name = `one agent ${slowness.name}, ${balance}`;
        rows.push([name, ROUNDS.toFixed(), ...medians, failed]);
      }
    }
    console.log(alignColumns(rows));
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

if (import.meta.main) {
  const controller = new AbortController();
  const late = new Error(`timed out after ${TOTAL_MS / 1_000} s`);
  Deno.unrefTimer(setTimeout(() => controller.abort(late), TOTAL_MS));
  await main(controller.signal);
  Deno.exit(0);
}
