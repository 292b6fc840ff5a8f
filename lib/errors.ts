// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** A mistake in how a program was started: shown in one line on stderr, exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

const MAX_QUOTED_LENGTH = 100;

/** A text that a message names, shortened where it is long. */
export function quote(text: string): string {
  const long = text.length > MAX_QUOTED_LENGTH;
  return JSON.stringify(long ? `${text.slice(0, MAX_QUOTED_LENGTH)}...` : text);
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
