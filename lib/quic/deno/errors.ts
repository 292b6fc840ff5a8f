// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Reads the errors of Deno's QUIC, of which there is only the text. The words are those of Quinn,
 * its library.
 */
import { messageOf } from "../../errors.ts";
import {
  type CloseInfo,
  StreamResetError,
  StreamStoppedError,
  transportCodeOf,
} from "../errors.ts";

/** INTERNAL_ERROR (RFC 9000 §20.1), for what has no code. */
const INTERNAL_ERROR = 1;

/** How a connection ended, from the error that its handshake or its `closed` rejects with. */
export function closeInfoOf(error: unknown, idleTimeoutMs: number): CloseInfo {
  const text = messageOf(error);
  if (text === "timed out") {
    const reason = `no packet from the peer for ${idleTimeoutMs} ms`;
    return { by: "timeout", application: false, code: 0, reason };
  }
  if (text === "reset by peer") {
    const reason = "the peer does not know it any more";
    return { by: "reset", application: false, code: 0, reason };
  }
  const closed = /^closed by peer: (?:(.*) \(code (\d+)\)|(\d+))$/s.exec(text);
  if (closed) {
    const [, reason = "", code, codeAlone] = closed;
    return { by: "peer", application: true, code: Number(code ?? codeAlone), reason };
  }
  const [, aborted, rest = text] = /^(aborted by peer: )?(.*)$/s.exec(text)!;
  const by = aborted ? "peer" : "local";
  const tls = /^the cryptographic handshake failed: error (\d+)(?:: (.*))?$/s.exec(rest);
  if (!tls) return { by, application: false, code: INTERNAL_ERROR, reason: rest };
  const [, alert, reason = ""] = tls;
  return { by, application: false, code: transportCodeOf(Number(alert)), reason };
}

/** What the peer has done to a stream; undefined when the error tells of something else. */
export function streamErrorOf(id: number, error: unknown): Error | undefined {
  const ended = /^(stream reset|sending stopped) by peer: error (\d+)$/.exec(messageOf(error));
  if (!ended) return undefined;
  const [, what, code] = ended;
  const EndError = what === "stream reset" ? StreamResetError : StreamStoppedError;
  return new EndError(id, Number(code));
}
