// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { quote } from "./printable.ts";

/** A mistake in how a program was started: shown in one line on stderr, exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/**
 * A text is not what it should be. The message names the text, shortened where it is long, and what
 * is wrong.
 */
export class NotParsedError extends Error {
  override readonly name = "NotParsedError";

  constructor(
    kind:
      | "address"
      | "network"
      | "rule"
      | "route"
      | "agent name"
      | "proxy"
      | "URI template"
      | "fallback",
    text: string,
    problem: string,
  ) {
    super(`invalid ${kind} ${quote(text)}: ${problem}`);
  }
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
