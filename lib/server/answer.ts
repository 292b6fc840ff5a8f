// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The server's own answers to clients that speak CONNECT, where no agent has given one. */
import { messageOf } from "../errors.ts";
import { onAbort } from "../on_abort.ts";
import { endingOf } from "../observe/ending.ts";
import { formatRefusal } from "../tunnel/connect_response.ts";
import { type Duplex, writeAll } from "../tunnel/duplex.ts";
import type { PipeResult } from "../tunnel/pipe.ts";
import { NotConnectedError, serverFailures } from "../tunnel/failure.ts";
import { SocksRefusedError } from "./asked_target.ts";

/** Name of the server in Proxy-Status. */
const PROXY_NAME = "quic-tunnel-server";

/** Time that a client has to take an answer, and to close its connection. */
const ANSWER_MS = 2_000;

/** Bytes of a client's that are dropped behind an answer. */
const MAX_DROPPED_BYTES = 1 << 20;

/** The answer to a client whose tunnel was not connected. */
export function answerTo(error: unknown): Uint8Array<ArrayBuffer> {
  if (error instanceof SocksRefusedError) return error.answer;
  if (error instanceof NotConnectedError) return formatRefusal(error, PROXY_NAME);
  const { reason } = endingOf(error, "target", "server");
  const { status, proxyError, words } = serverFailures[reason] ?? serverFailures.error;
  const message = words ? `${words}: ${messageOf(error)}` : messageOf(error);
  return formatRefusal({ status, proxyError, message }, PROXY_NAME);
}

/** The answer to a client whose tunnel has failed before it got a byte, if it comes to that. */
export class OwnAnswer {
  readonly #carrier: Duplex;
  #error: unknown;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @param carrier to the client, which is closed if it stays after the answer */
  constructor(carrier: Duplex) {
    this.#carrier = carrier;
  }

  /** As `RetryOptions.answer` wants it. */
  readonly make = (error: unknown): Uint8Array => {
    this.#error = error;
    this.#timer = setTimeout(() => this.#carrier.abort(), ANSWER_MS);
    return answerTo(error);
  };

  /** How the tunnel ended, by how its pipe did: for the error that was answered, if one was. */
  end(piped: PipeResult): PipeResult {
    clearTimeout(this.#timer);
    if (this.#timer === undefined || piped.reason === "aborted") return piped;
    return { ...piped, reason: "error", by: "b", error: this.#error };
  }
}

/**
 * Gives a client an answer and closes its connection, within {@linkcode ANSWER_MS}. What it still
 * sends is dropped: unread, it would reset the connection, and drop the answer. Never rejects.
 *
 * @param signal ends it
 */
export async function giveAnswer(
  carrier: Duplex,
  answer: Uint8Array,
  signal: AbortSignal,
): Promise<void> {
  const timer = setTimeout(() => carrier.abort(), ANSWER_MS);
  const stopListening = onAbort(signal, () => carrier.abort());
  try {
    await writeAll(carrier, answer);
    await carrier.closeWrite();
    const buffer = new Uint8Array(4096);
    for (let dropped = 0, n; dropped < MAX_DROPPED_BYTES; dropped += n) {
      n = await carrier.read(buffer);
      if (n === null) break;
    }
    await carrier[Symbol.asyncDispose]();
  } catch {
    // The client is gone, or has had its time.
    carrier.abort();
  } finally {
    clearTimeout(timer);
    stopListening();
  }
}
