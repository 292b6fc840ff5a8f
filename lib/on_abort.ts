// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The listeners of each signal, which has one event listener for all of them. */
const listeners = new WeakMap<AbortSignal, Set<() => void>>();

/**
 * Calls a function once when a signal aborts, unless it has aborted already. Unlike
 * `addEventListener`, which searches all listeners, it costs the same however many tunnels there
 * are.
 *
 * @param listener must not throw; a function of its own for each call
 * @returns removes the listener
 */
export function onAbort(signal: AbortSignal, listener: () => void): () => void {
  let all = listeners.get(signal);
  if (!all) {
    const added = all = new Set();
    listeners.set(signal, added);
    signal.addEventListener("abort", () => {
      for (const listener of added) listener();
      added.clear();
    }, { once: true });
  }
  all.add(listener);
  return () => void all.delete(listener);
}
