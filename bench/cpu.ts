// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { delay } from "@std/async/delay";
import { commandOutput } from "../tools/command_output.ts";

/** USER_HZ, which is the same on every machine that Deno runs on. */
const TICKS_PER_SECOND = 100;

/** CPU time so far, in seconds. */
export interface CpuTimes {
  /** Of each process that was asked for. */
  readonly processes: readonly number[];
  /** Of the whole machine, all its CPUs together. */
  readonly busy: number;
  readonly idle: number;
}

/**
 * Looks at the CPU time of some processes, and of the machine. Undefined where there is no `/proc`.
 *
 * By way of `cat`, since Deno lets nobody into `/proc` who is not allowed everything.
 */
export async function cpuTimes(pids: readonly number[] = []): Promise<CpuTimes | undefined> {
  if (Deno.build.os !== "linux") return undefined;
  const args = ["/proc/stat", ...pids.map((pid) => `/proc/${pid}/stat`)];
  try {
    const { stdout, success } = await commandOutput("cat", args);
    if (!success) return undefined;
    const lines = stdout.trimEnd().split("\n");
    // proc(5): user, nice, system, idle, iowait, irq, softirq, steal
    const machine = lines[0]!.split(/ +/).slice(1, 9).map(Number);
    const idle = machine[3]! + machine[4]!;
    const busy = machine.reduce((sum, ticks) => sum + ticks) - idle;
    return {
      processes: lines.slice(lines.length - pids.length).map(processTicks).map(toSeconds),
      busy: toSeconds(busy),
      idle: toSeconds(idle),
    };
  } catch {
    return undefined;
  }
}

/**
 * CPU time so far of the main threads of some processes, in milliseconds and to the microsecond. Undefined where the
 * kernel does not tell it.
 */
export async function mainThreadMs(pids: readonly number[]): Promise<number[] | undefined> {
  if (Deno.build.os !== "linux") return undefined;
  const { stdout, success } = await commandOutput(
    "cat",
    pids.map((pid) => `/proc/${pid}/schedstat`),
  );
  if (!success) return undefined;
  return stdout.trimEnd().split("\n").map((line) => Number(line.split(" ")[0]) / 1e6);
}

/** Lets programs finish what they do after their last byte, and shows what else the machine does. */
const PAUSE_MS = 300;
const MAX_PAUSES = 8;

/** The part of the machine's CPU time in a pause from which on it is busy with something else. */
const BUSY = 0.2;

/** Waits until the machine has nothing else to do, for some time at most; false when it still has. */
export async function quiet(): Promise<boolean> {
  for (let i = 0; i < MAX_PAUSES; i++) {
    const from = await cpuTimes();
    await delay(PAUSE_MS);
    const to = await cpuTimes();
    if (!from || !to) return true;
    const busy = to.busy - from.busy;
    if (busy / (busy + to.idle - from.idle) < BUSY) return true;
  }
  return false;
}

/** Fields 14 and 15 of proc(5), user and system time; the name before them may hold anything. */
function processTicks(stat: string): number {
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return Number(fields[11]) + Number(fields[12]);
}

function toSeconds(ticks: number): number {
  return ticks / TICKS_PER_SECOND;
}
