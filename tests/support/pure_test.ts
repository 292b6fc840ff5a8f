// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { deadline } from "@std/async/deadline";

/** Ample for what never waits for the system. */
const PROMPT_MS = 10_000;

/** Registers a test of code that needs no permission and waits for nothing but itself. */
export function pureTest(name: string, fn: () => void | Promise<void>): void {
  Deno.test({
    name,
    permissions: "none",
    fn: () => deadline(Promise.resolve(fn()), PROMPT_MS),
  });
}

/** Lets everything happen that needs no event of the system. */
export async function settled(): Promise<void> {
  for (let i = 0; i < 200; i++) await Promise.resolve();
}

/** Whether a promise is pending once all has happened that needs no event of the system. */
export async function isPending(promise: Promise<unknown>): Promise<boolean> {
  let pending = true;
  promise.then(() => pending = false, () => pending = false);
  await settled();
  return pending;
}
