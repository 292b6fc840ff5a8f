// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The listeners of a signal, which is listened to once for all of them. */
const listeners = new WeakMap<AbortSignal, Set<() => void>>();

/**
 * Calls a function once when a signal aborts, if it has not already. `addEventListener` looks through all that listen, and so
 * costs the more the more tunnels there are; this does not.
 *
 * @param listener must not throw; a function of its own for each call
 * @returns what ends the listening
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
