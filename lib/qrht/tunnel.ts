// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A QUIC stream as a tunnel, in the dialect of its connection: what server and agent do with it at
 * its two ends.
 */
import { formatSocketAddress } from "../net/authority.ts";
import { speaksQrht } from "./dialect.ts";
import { type Duplex, writeAll } from "../tunnel/duplex.ts";
import type { Failure } from "../tunnel/failure.ts";
import { FrameType, ProtocolError } from "./frame.ts";
import {
  decodeOpen,
  decodeResult,
  encodeOpen,
  encodeResult,
  type Open,
  type Result,
} from "./messages.ts";
import { StreamCode } from "./codes.ts";
import { type BidiStream, Hold, TunnelStream } from "./tunnel_stream.ts";
import { within } from "../wait.ts";

/** The server's end of a tunnel, to an agent that is asked to connect it. */
export interface OutgoingTunnel {
  /**
   * Takes the client's bytes at once; gives the target's, or the agent's own answer, once there is
   * a result.
   */
  readonly carrier: Duplex & Required<Pick<Duplex, "stop">>;
  /**
   * What the agent says; in the raw dialect it says nothing, which counts as connected. Rejects
   * when it is gone.
   */
  readonly result: Promise<Result>;
  /** Whether it is in the raw dialect. @default {false} */
  readonly isRaw?: boolean;
}

/** The agent's end of a tunnel. */
export interface IncomingTunnel {
  /**
   * Gives the client's bytes. To be written to once the server was told that the target is
   * connected.
   */
  readonly carrier: Duplex;
  /** What the server tells of it; nothing in the raw dialect. */
  readonly open: Partial<Open>;
  /**
   * Tells the server that the target is connected, together with the first bytes if they come soon.
   * A protocol that answers its client before it names a target needs that earlier: the server then
   * passes bytes on, and does not try another agent.
   */
  connected(): void;
  /**
   * The same at once. Resolves when it is on its way, so that another agent is not tried any more
   * when the target gets its first byte.
   *
   * @throws when the server takes nothing any more
   */
  sendConnected(): Promise<void>;
  /**
   * Tells the server why the target is not connected, unless it was told that it is, and ends the
   * tunnel. Never rejects.
   *
   * @param answer what the client is to read then; without it, a raw tunnel is reset
   */
  failed(failure: Failure, answer?: Uint8Array): Promise<void>;
}

/** Time that the server has for the first frame of a stream. */
const OPEN_TIMEOUT_MS = 10_000;

/** Time in which the server must take what the agent answers by itself. */
export const ANSWER_TIMEOUT_MS = 10_000;

/**
 * Time that OPEN waits for the client's first bytes, which most clients send together with their
 * acknowledgement of the connection, and RESULT for those of the target.
 */
const OPEN_HOLD_MS = 1;
const RESULT_HOLD_MS = 2;

const CONNECTED = encodeResult({ code: "connected", text: "" });

/** The server's end of a stream that it has just opened. */
export function openTunnel(stream: BidiStream, alpn: string, open: Open): OutgoingTunnel {
  if (!speaksQrht(alpn)) {
    const result = Promise.resolve({ code: "connected", text: "" } as const);
    return { carrier: stream, result, isRaw: true };
  }
  const carrier = new TunnelStream(stream, FrameType.Result);
  const receive = async () => {
    const payload = await carrier.receiveFirst();
    if (!payload) throw new Error("the agent ended the stream without a result");
    return carrier.parseOrReset(() => decodeResult(payload));
  };
  const result = new Promise<Result>((resolve, reject) => {
    carrier.holdFirst(FrameType.Open, encodeOpen(open), Hold.for(OPEN_HOLD_MS), reject);
    receive().then(resolve, reject);
  });
  result.catch(() => {});
  return { carrier, result };
}

/**
 * The agent's end of a stream that the server has opened.
 *
 * @returns undefined when the server has ended it without a word
 * @throws {ProtocolError} when it does not begin as it has to; it is reset then
 * @throws when it is reset, or takes too long to begin
 */
export async function acceptTunnel(
  stream: BidiStream,
  alpn: string,
  timeoutMs = OPEN_TIMEOUT_MS,
): Promise<IncomingTunnel | undefined> {
  if (!speaksQrht(alpn)) return rawTunnel(stream);
  const carrier = new TunnelStream(stream, FrameType.Open);
  const payload = await within(timeoutMs, carrier.receiveFirst(), () => {
    carrier.abort(StreamCode.ProtocolError);
    return new ProtocolError(`the first frame is not complete within ${timeoutMs} ms`);
  });
  if (payload) return framedTunnel(carrier, carrier.parseOrReset(() => decodeOpen(payload)));
  carrier.abort();
  return undefined;
}

function rawTunnel(stream: BidiStream): IncomingTunnel {
  return {
    carrier: stream,
    open: {},
    connected: () => {},
    sendConnected: () => Promise.resolve(),
    failed: async (_, answer) => {
      if (!answer) return stream.abort(StreamCode.UpstreamUnreachable);
      await orAbort(stream, async () => {
        await writeAll(stream, answer);
        await stream[Symbol.asyncDispose]();
      });
    },
  };
}

function framedTunnel(carrier: TunnelStream, open: Open): IncomingTunnel {
  let hasResult = false;
  return {
    carrier,
    open,
    connected() {
      if (hasResult) return;
      hasResult = true;
      // When it cannot be sent, no more can the bytes behind it.
      carrier.holdFirst(FrameType.Result, CONNECTED, Hold.for(RESULT_HOLD_MS), () => {});
    },
    async sendConnected() {
      if (hasResult) return;
      hasResult = true;
      await carrier.sendFirst(FrameType.Result, CONNECTED);
      // Packets leave at the end of this turn of the event loop.
      await new Promise<void>((resolve) => void Hold.forTurn(resolve));
    },
    failed: (failure, answer) =>
      orAbort(carrier, async () => {
        if (!hasResult) await carrier.sendFirst(FrameType.Result, encodeResult(failure));
        if (answer) await writeAll(carrier, answer);
        await carrier.closeWrite();
        await carrier[Symbol.asyncDispose]();
      }),
  };
}

async function orAbort(carrier: Duplex, run: () => Promise<void>): Promise<void> {
  try {
    await within(ANSWER_TIMEOUT_MS, run(), () => new Error("the server takes no answer"));
  } catch {
    // The server has reset the stream, takes nothing, or is gone.
    carrier.abort();
  }
}

/** Log fields of a tunnel, at both ends. */
export function openFields({ tunnelId, client }: Partial<Open>) {
  return {
    tunnel: tunnelId?.toHex(),
    client: client && formatSocketAddress(client),
  };
}
