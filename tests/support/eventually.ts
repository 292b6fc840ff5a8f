// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Waits until a condition holds.
 *
 * @param what the condition in words, for the failure
 * @param check anything but `false`, `undefined`, `null` and a throw is success, and the result
 * @param timeoutMs how long to wait, default 10 s
 * @throws {Error} that names the condition, and the last thing the check threw
 */
export async function eventually<T>(
  what: string,
  check: () => T | Promise<T>,
  timeoutMs = 10_000,
): Promise<Exclude<T, false | undefined | null>> {
  const giveUpAt = performance.now() + timeoutMs;
  let last: unknown;
  do {
    try {
      const value = await check();
      if (value !== false && value !== undefined && value !== null) {
        return value as Exclude<T, false | undefined | null>;
      }
      last = value;
    } catch (error) {
      last = error;
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  } while (performance.now() < giveUpAt);
  throw new Error(
    `not within ${timeoutMs} ms: ${what} (last: ${last instanceof Error ? last.message : last})`,
  );
}
