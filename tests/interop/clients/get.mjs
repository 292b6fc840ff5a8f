// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-process-global -- run by Node

/** Fetches URLs, as the environment says, and prints what they answer. */
for (const url of process.argv.slice(2)) {
  const response = await fetch(url, { signal: AbortSignal.timeout(20_000) });
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  process.stdout.write(await response.text());
}
