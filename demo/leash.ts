// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Loaded before a program of the demo (`deno run --preload`): ends its process once standard input
 * ends, which is when the demo is gone, however it went. Nothing is left running even after a
 * `kill -9`.
 */

async function demoIsGone(): Promise<void> {
  const buffer = new Uint8Array(64);
  while (await Deno.stdin.read(buffer) !== null);
}

/** Deno loads the program once everything that this module has begun is over: begin long after. */
const BEGIN_AFTER_MS = 1_000;

// A timer that has no reference is not waited for.
Deno.unrefTimer(setTimeout(() => demoIsGone().finally(() => Deno.exit(1)), BEGIN_AFTER_MS));
