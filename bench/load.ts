// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- its lines are what the benchmark waits for

/** Downloads without an end, in a process of its own, so that what is measured beside them has its own. */
import { transfer } from "./transfer.ts";
import type { Way } from "./way.ts";

/** What the one argument says, as JSON. */
export interface Load {
  readonly way: Way;
  /** At a time. */
  readonly transfers: number;
  /** Of each. */
  readonly bytes: number;
}

const { way, transfers, bytes } = JSON.parse(Deno.args[0]!) as Load;
const { signal } = new AbortController();
console.error("loading");
await Promise.all(Array.from({ length: transfers }, async () => {
  for (;;) await transfer({ way, bytes, signal });
}));
