// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** A message that is not valid HTTP/1, or ambiguous. The words are fit for a reason phrase. */
export class MalformedError extends Error {
  override readonly name = "MalformedError";

  /** @param status of the answer to a request */
  constructor(message: string, readonly status: 400 | 417 | 501 = 400) {
    super(message);
  }
}
