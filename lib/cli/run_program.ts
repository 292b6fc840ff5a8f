// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Authority } from "../net/authority.ts";
import type { ReportOutput } from "./check/report.ts";
import { stepOutput } from "./check/spinner.ts";
import { formatCompletion } from "./completion.ts";
import { messageOf, UsageError } from "../errors.ts";
import { parseWithConfig } from "./config_file.ts";
import { type Env, ENV_PREFIX } from "./environment.ts";
import type { FlagTable, FlagValues } from "./flag.ts";
import { formatHelp } from "./help.ts";
import { processMemory, trimWhenIdle } from "./idle_memory.ts";
import { LineWriter } from "./line_writer.ts";
import { configureLog, type LogFormat, logger } from "../log.ts";
import { environmentNames, ignoreUserSignal1, notifyReady } from "../net/libc.ts";
import { Monitor } from "../observe/monitor.ts";
import { type Followed, ReloadingConfig } from "./reloading_config.ts";
import { type ProgramInfo, programInfos } from "./programs.ts";
import { LogThrottle } from "../log_throttle.ts";
import { describeVersion } from "../version.ts";
import { MAX_TIMER_MS } from "../wait.ts";
import { logSnapshot } from "../observe/snapshot.ts";

/** Registers a listener for SIGHUP. */
export type OnHangup = (listener: () => void) => void;

/** What every program gets in addition to its flags. */
export interface Surroundings<T extends FlagTable = FlagTable> {
  /** Stops it. */
  readonly signal: AbortSignal;
  /** Registers a listener for SIGHUP, the request to reload files. Never called on Windows. */
  readonly onHangup: OnHangup;
  /** Records what happens. */
  readonly monitor: Monitor;
  /** Tells the service manager that the program has started. */
  readonly ready: () => void;
  /** IP addresses and ports that it listens on already. */
  readonly ownListeners: readonly Authority[];
  /** Looks up a variable that other programs read as well; none that this one may not read. */
  readonly env: Env;
  /** Has the program follow its `--config`, if it has one, until the signal aborts. */
  readonly follow: (followed: Followed<T>) => void;
}

/** The flags that are used here. */
interface CommonValues {
  readonly config?: string | undefined;
  readonly v: number;
  readonly logFormat: LogFormat;
  readonly name?: string | undefined;
  readonly listenAdmin?: Authority | undefined;
  readonly adminNames: readonly string[];
}

/** A program of this project, as its command line sees it. */
export interface Program<T extends FlagTable> extends ProgramInfo<T> {
  /**
   * Runs until the signal aborts.
   *
   * @throws {UsageError} when it cannot start as configured
   */
  run(values: FlagValues<T> & CommonValues, surroundings: Surroundings<T>): Promise<void>;
  /**
   * Makes certificates instead, for `--make-certs`.
   *
   * @param write takes each line of the report, without its end
   * @throws {UsageError} when that cannot be done as asked
   */
  makeCerts?(values: FlagValues<T>, write: (line: string) => void): Promise<void>;
  /** Runs start-up checks instead, for `--check`. Resolves with whether all have passed. */
  check?(values: FlagValues<T>, output: ReportOutput, env: Env): Promise<boolean>;
}

/**
 * Exit codes: 0 stopped by a signal, 1 failed, 2 could not start, 128 + n ended by second signal n.
 */
const FAILED = 1;
const USAGE = 2;

/** How long the program waits at its end for whoever reads its lines, in milliseconds. */
const FLUSH_TIMEOUT_MS = 2_000;

const log = logger("log");

const stopSignals = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;

/** Runs a program with the process's arguments, environment and signals, and ends the process. */
export async function runProgram<
  T extends FlagTable & Readonly<Record<keyof CommonValues, unknown>>,
>(
  program: Program<T>,
): Promise<never> {
  const stderr = new LineWriter(Deno.stderr, {
    dropped: (lines) => log.warn("log lines dropped", { lines }),
  });
  const end = (code: number) => exitAfter(stderr, code);
  const signals = listenToSignals(end);
  const { stop: signal, onHangup } = signals;
  try {
    const parse = () =>
      parseWithConfig(program.flags, Deno.args, {
        get: (name) => Deno.env.get(name),
        names: environmentNames(ENV_PREFIX) ?? [],
        othersFlags: programInfos.map(({ flags }) => flags),
      });
    const parsed = await parse();
    if (parsed.kind === "help") return await print(formatHelp(program, program.flags));
    if (parsed.kind === "version") return await print(`${program.name} ${describeVersion()}`);
    if (parsed.kind === "completion") {
      return await print(formatCompletion(parsed.shell, program.name, program.flags));
    }
    const values = parsed.values as FlagValues<T> & CommonValues;
    const stdout = new LineWriter(Deno.stdout);
    if ("makeCerts" in values && values.makeCerts !== undefined && program.makeCerts) {
      await program.makeCerts(values, (line) => stdout.write(line));
      return await exitAfter(stdout, 0);
    }
    if ("check" in values && values.check && program.check) {
      const isWell = await program.check(
        values,
        stepOutput((line) => stdout.write(line)),
        sharedEnv,
      );
      return await exitAfter(stdout, isWell ? 0 : FAILED);
    }
    configureLog(values.v, (line) => stderr.write(line), {
      format: values.logFormat,
      color: Deno.stderr.isTerminal() && !Deno.noColor,
    });
    logUnhandledErrors();
    const monitor = new Monitor(program.name, values.name);
    monitor.readFrom({ droppedLogLines: () => stderr.dropped });
    signals.start(() => logSnapshot(monitor));
    signal.addEventListener("abort", () => monitor.isDraining = true);
    const ownListeners = values.listenAdmin
      ? [await startAdminOf(monitor, values.listenAdmin, values.adminNames)]
      : [];
    const follow = (followed: Followed<T>) => {
      if (values.config === undefined) return;
      const read = async () => (await parse() as typeof parsed).values;
      const config = new ReloadingConfig({ flags: program.flags, values, read });
      void config.watch(followed, { signal, onHangup });
    };
    trimWhenIdle(signal, processMemory);
    await program.run(values, {
      signal,
      onHangup,
      monitor,
      ownListeners,
      ready: notifyReady,
      env: sharedEnv,
      follow,
    });
    return await end(0);
  } catch (error) {
    stderr.write(`${program.name}: ${messageOf(error)}`);
    return await end(error instanceof UsageError ? USAGE : FAILED);
  }
}

/** A variable that the program has the permission to read. */
function sharedEnv(variable: string): string | undefined {
  const { state } = Deno.permissions.querySync({ name: "env", variable });
  return state === "granted" ? Deno.env.get(variable) : undefined;
}

/** Ends the process once the lines are written, or their reader has had its time. */
async function exitAfter(lines: LineWriter, code: number): Promise<never> {
  await lines.flush(FLUSH_TIMEOUT_MS);
  return Deno.exit(code);
}

/**
 * Starts the admin listener, which runs until the process exits. Its code is only loaded if needed.
 *
 * @returns its IP address and port
 */
async function startAdminOf(
  monitor: Monitor,
  address: Authority,
  names: readonly string[],
): Promise<Authority> {
  const { startAdmin } = await import("../observe/admin.ts");
  return startAdmin({ monitor, address, names, signal: new AbortController().signal }).addr;
}

interface Signals {
  readonly stop: AbortSignal;
  readonly onHangup: OnHangup;
  /** From now on a stop signal is a request; until then it ends the process. */
  start(snapshot: () => void): void;
}

/**
 * Aborts at the first stop signal; the second one ends the process at once. SIGHUP is one only if
 * the program's terminal has been closed. Called before anything that takes time: without listeners,
 * the signals end the process.
 */
function listenToSignals(end: (code: number) => Promise<never>): Signals {
  const controller = new AbortController();
  let snapshot: (() => void) | undefined;
  const stop = (name: keyof typeof stopSignals) => {
    if (controller.signal.aborted || !snapshot) return void end(128 + stopSignals[name]);
    controller.abort(new Error(`stopped by ${name}`));
  };
  const listeners: (() => void)[] = [];
  const hadTerminal = Deno.stderr.isTerminal();
  const hangUp = () => {
    if (hadTerminal && !Deno.stderr.isTerminal()) return stop("SIGHUP");
    for (const listener of listeners) listener();
  };
  const onWindows = Deno.build.os === "windows";
  Deno.addSignalListener("SIGINT", () => stop("SIGINT"));
  if (!onWindows) Deno.addSignalListener("SIGTERM", () => stop("SIGTERM"));
  if (!onWindows) Deno.addSignalListener("SIGHUP", hangUp);
  if (!onWindows) Deno.addSignalListener("SIGUSR2", () => snapshot?.());
  if (!onWindows) disarmDebugger();
  return {
    stop: controller.signal,
    onHangup: (listener) => listeners.push(listener),
    start: (ofProgram) => snapshot = ofProgram,
  };
}

/**
 * Keeps SIGUSR1 from opening V8's inspector, which `deno run` listens for half a second after its
 * start; there is no option against it. Its listener does not install a handler if there was one
 * before, so this one comes first, and is then taken away.
 */
function disarmDebugger(): void {
  Deno.addSignalListener("SIGUSR1", () => {});
  ignoreUserSignal1();
}

/**
 * Logs errors that nothing handles, and continues: a bug that concerns one tunnel must not end all
 * of them.
 */
function logUnhandledErrors(): void {
  const log = logger("program");
  const throttle = new LogThrottle();
  const report = (event: Event, error: unknown) => {
    event.preventDefault();
    const times = throttle.pass();
    if (times === undefined) return;
    const stack = error instanceof Error ? error.stack : undefined;
    log.error("unhandled error", { error: messageOf(error), times, stack });
  };
  globalThis.addEventListener("unhandledrejection", (event) => report(event, event.reason));
  globalThis.addEventListener("error", (event) => report(event, event.error));
}

/** Prints a text and ends the process. A signal ends it while it waits for a slow reader. */
async function print(text: string): Promise<never> {
  const lines = new LineWriter(Deno.stdout);
  lines.write(text);
  await lines.flush(MAX_TIMER_MS);
  return Deno.exit(0);
}
