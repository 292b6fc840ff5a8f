// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- its one line is what the benchmark reads

/** One download by a client in a process of its own, which may be in another network namespace. */
import { messageOf } from "../lib/errors.ts";
import { transfer } from "./transfer.ts";

const { signal } = new AbortController();
try {
  const { bytes, seconds } = await transfer({ ...JSON.parse(Deno.args[0]!), signal });
  console.error(`moved ${bytes} bytes in ${seconds} s`);
} catch (error) {
  console.error(`failed: ${messageOf(error)}`);
}
