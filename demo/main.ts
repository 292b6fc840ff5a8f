// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * `deno task demo`: a server, two networks behind it, one with an agent, one with a passthrough, and
 * an origin, as processes on this machine, and requests to both networks.
 *
 * Exit codes: 0 stopped by a signal, or with `--once` all checks passed; 1 failed; 2 usage.
 */

import { abortable } from "@std/async/abortable";
import { messageOf, UsageError } from "../lib/errors.ts";
import { formatAuthority } from "../lib/net/authority.ts";
import { parseCommandLine } from "../tools/command_line.ts";
import { type Check, labChecks, officeChecks, type Result, runCheck } from "./checks.ts";
import * as screen from "./screen.ts";
import { setStage, type Stage } from "./stage.ts";

const USAGE = `Usage: deno task demo [--once]

  --once  exit after the checks, with code 0 if all passed, else 1`;

/** The demo was told to stop. */
class Stopped extends Error {
  override readonly name = "Stopped";
}

async function main(args: readonly string[]): Promise<number> {
  let once = false;
  try {
    const options = parseCommandLine(args, { switches: ["once"] });
    if (options.help) {
      screen.showNote(USAGE);
      return 0;
    }
    once = options.once;
    const end = new AbortController();
    abortOnSignal(end);
    return await demo(once, end);
  } catch (error) {
    if (error instanceof Stopped) {
      screen.showNote(`\n${error.message}, all processes have exited`);
      return once ? 1 : 0;
    }
    const isUsage = error instanceof UsageError;
    screen.showError(isUsage ? `${error.message}\n\n${USAGE}` : messageOf(error));
    return isUsage ? 2 : 1;
  }
}

/** Ends in order whatever way it ends: the stack's processes first, then their files. */
async function demo(once: boolean, end: AbortController): Promise<number> {
  await using stack = new AsyncDisposableStack();
  const { signal } = end;
  screen.showNote("starting a server, an agent, a passthrough and an origin …");
  const stage = await setStage(stack, (error) => end.abort(error), signal);

  screen.showTitle("The network office: the client names the target in a CONNECT request");
  screen.showPath(stage.office, stage);
  const results = await runChecks(officeChecks(stage), signal);
  screen.showTitle("The network lab, by another port: every connection goes to one upstream");
  screen.showPath(stage.lab, stage);
  results.push(...await runChecks(labChecks(stage), signal));

  const right = results.filter(({ ok }) => ok).length;
  screen.showNote(`\n${right} of ${results.length} checks passed`);
  if (once) return right === results.length ? 0 : 1;
  showWhatToTry(stage);
  return await abortable(new Promise<never>(() => {}), signal);
}

/** One after the other, so that each has the machine for itself. */
async function runChecks(checks: Check[], signal: AbortSignal): Promise<Result[]> {
  const results: Result[] = [];
  screen.showResultHead();
  for (const check of checks) {
    const result = await runCheck(check, signal);
    screen.showResult(result);
    results.push(result);
  }
  return results;
}

/** The `--noproxy` overrules what the environment may say of proxies. */
function showWhatToTry({ origin, office, lab }: Stage): void {
  const target = `http://${formatAuthority(origin.tcp)}/`;
  screen.showTitle("Everything keeps running. In another terminal, try");
  screen.showCommand(
    "the network office, through its agent",
    `curl -p --noproxy "" --proxy ${formatAuthority(office.tcp)} ${target}`,
  );
  screen.showCommand(
    "the network lab, through its passthrough",
    `curl --noproxy "*" http://${formatAuthority(lab.tcp)}/`,
  );
  screen.showNote("\nPress Ctrl-C to stop.");
}

/** Signals to stop; a second one changes nothing, since every step of the end is bounded. */
function abortOnSignal(end: AbortController): void {
  const signals: Deno.Signal[] = Deno.build.os === "windows"
    ? ["SIGINT"]
    : ["SIGINT", "SIGTERM", "SIGHUP"];
  for (const name of signals) {
    Deno.addSignalListener(name, () => end.abort(new Stopped(`stopped by ${name}`)));
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
