// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { libc } from "../net/libc.ts";

/** Time between two looks at the CPU time. */
const INTERVAL_MS = 7_000;

/** A program that has taken less CPU time than this between two looks is idle. */
const IDLE_CPU_MS = 200;

/** What is needed of the process. */
export interface ProcessMemory {
  /** CPU time that the process has taken. */
  readonly cpuMs: () => number;
  /** Gives memory that is free back to the system. */
  readonly trim: () => void;
}

/** Those of this process; undefined without the C library. */
export const processMemory: ProcessMemory | undefined = libc && {
  // Microseconds, by POSIX.
  cpuMs: () => Number(libc!.clock()) / 1_000,
  trim: () => void libc!.malloc_trim(0n),
};

/**
 * Gives memory back to the system when the program has become idle, once after each time in which
 * it was busy, such as its start: by itself, the C library keeps what is free between allocations
 * that are still needed. It takes up to half a millisecond for each MiB that is free, when hardly
 * anything else is done.
 *
 * @param process without it, nothing happens
 */
export function trimWhenIdle(signal: AbortSignal, process: ProcessMemory | undefined): void {
  if (!process || signal.aborted) return;
  let lastMs = process.cpuMs();
  let wasBusy = true;
  const timer = setInterval(() => {
    const nowMs = process.cpuMs();
    const isBusy = nowMs - lastMs >= IDLE_CPU_MS;
    lastMs = nowMs;
    if (wasBusy && !isBusy) process.trim();
    wasBusy = isBusy;
  }, INTERVAL_MS);
  signal.addEventListener("abort", () => clearInterval(timer), { once: true });
}
