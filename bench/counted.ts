// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- its lines are what the benchmark reads

/**
 * Loaded before a program, counts what JavaScript makes in it: timers, promises, and bytes of its heap, as long as the
 * garbage collector does not run. At each SIGWINCH it writes how many there have been.
 */

/** What is counted, as it is written. */
export interface Counted {
  readonly timers: number;
  readonly promises: number;
  readonly heapBytes: number;
}

/** Of Deno's own, which has no public hook for promises. */
interface Core {
  setPromiseHooks(init: () => void): void;
}

let [timers, promises, looks] = [0, 0, 0];

const counting = <Make extends (...args: never[]) => unknown>(make: Make): Make =>
  new Proxy(make, {
    apply(make, self, args) {
      timers++;
      return Reflect.apply(make, self, args);
    },
  });
globalThis.setTimeout = counting(globalThis.setTimeout);
globalThis.setInterval = counting(globalThis.setInterval);

const { internal } = Deno as unknown as { readonly internal: symbol };
const { core } = (Deno as unknown as Record<symbol, { readonly core: Core }>)[internal]!;
core.setPromiseHooks(() => {
  promises++;
});

Deno.addSignalListener("SIGWINCH", () => {
  const { heapUsed: heapBytes } = Deno.memoryUsage();
  const counted: Counted = { timers, promises, heapBytes };
  console.error(`counted ${++looks} ${JSON.stringify(counted)}`);
});
