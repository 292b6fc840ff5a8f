// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** proxy-agent: dials the server and serves HTTP CONNECT on every stream that the server opens. */
import { type AgentConfig, loadAgentTls, runAgentSession } from "./lib/agent_session.ts";
import { formatAuthority } from "./lib/authority.ts";
import {
  CONNECT_OK,
  ConnectHeadParser,
  type ConnectHeadResult,
  formatConnectResponse,
  formatProxyStatus,
} from "./lib/connect_head.ts";
import { dial, DialError, type DialFailure } from "./lib/dial.ts";
import { type Duplex, tcpDuplex, writeAll } from "./lib/duplex.ts";
import { messageOf } from "./lib/errors.ts";
import { runProgram } from "./lib/lifecycle.ts";
import { logger } from "./lib/log.ts";
import { pipeDuplex, summarize } from "./lib/pipe.ts";
import { agentFlags } from "./lib/program_flags.ts";
import type { QuicStream } from "./lib/quic/mod.ts";

/** Time a client has for the head of its request. */
const HEAD_TIMEOUT_MS = 10_000;

/** Name of this proxy in Proxy-Status (RFC 9209). */
const PROXY_NAME = "quic-tunnel-agent";

const log = logger("agent");

type Answer = Extract<ConnectHeadResult, { kind: "connect" }>;

/** A request that is answered with something else than a tunnel. */
class Refusal extends Error {
  override readonly name = "Refusal";
  constructor(
    readonly status: number,
    reason: string,
    readonly proxyError?: DialFailure | "http_request_error",
  ) {
    super(reason);
  }
}

/** Status of a dial that failed; everything else is 502. */
const dialStatus: Partial<Record<DialFailure, number>> = {
  connection_timeout: 504,
  connection_limit_reached: 503,
};

/** Runs an agent until the signal aborts. Reconnects for ever. */
export async function runAgent(
  config: AgentConfig,
  options: { readonly signal: AbortSignal },
): Promise<void> {
  const { signal } = options;
  log.info("agent started", { server: formatAuthority(config.server) });
  await runAgentSession(config, {
    log,
    signal,
    serve: (stream, ended) => serveConnect(stream, config.dialTimeoutMs, ended),
  });
  log.info("agent stopped");
}

/** Serves one CONNECT request to the end of its tunnel. */
async function serveConnect(
  stream: QuicStream,
  dialTimeoutMs: number,
  signal: AbortSignal,
): Promise<void> {
  const since = performance.now();
  let target = "";
  try {
    const request = await readHead(stream);
    if (!request) return await stream[Symbol.asyncDispose]();
    target = request.authority;
    log.trace("connect request", { stream: stream.id, target });
    const connection = await dial(request.target, dialTimeoutMs, signal).catch(refuseDial);
    const upstream = tcpDuplex(connection);
    try {
      await writeAll(upstream, request.rest);
      await writeAll(stream, CONNECT_OK);
    } catch (error) {
      upstream.abort();
      throw error;
    }
    const result = await pipeDuplex(stream, upstream, { signal });
    log.debug("tunnel ended", {
      stream: stream.id,
      target,
      ...summarize(result, since, { a: "client", b: "target" }),
      sent: request.rest.length + result.aToB,
    });
  } catch (error) {
    log.debug("tunnel refused", { stream: stream.id, target, error: messageOf(error) });
    if (error instanceof Refusal) await refuse(stream, error);
    else stream.abort();
  }
}

/** Undefined when the client left before it had asked for anything. */
async function readHead(stream: Duplex): Promise<Answer | undefined> {
  const parser = new ConnectHeadParser();
  const buffer = new Uint8Array(4096);
  const late = Symbol();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const timeout = new Promise<typeof late>((resolve) => {
    timer = setTimeout(() => resolve(late), HEAD_TIMEOUT_MS);
  });
  try {
    for (;;) {
      const reading = stream.read(buffer);
      const n = await Promise.race([reading, timeout]);
      if (n === late) {
        reading.catch(() => {});
        throw new Refusal(408, `request head not complete in ${HEAD_TIMEOUT_MS} ms`);
      }
      if (n === null && parser.byteLength === 0) return undefined;
      if (n === null) throw new Refusal(400, "the request ends within its head");
      const result = parser.push(buffer.subarray(0, n));
      if (result.kind === "connect") return result;
      if (result.kind === "reject") {
        throw new Refusal(result.status, result.reason, "http_request_error");
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

function refuseDial(error: unknown): never {
  if (!(error instanceof DialError)) throw error;
  throw new Refusal(dialStatus[error.failure] ?? 502, error.message, error.failure);
}

/** Answers with the cause, in the reason phrase since that is all that kube-apiserver shows, and ends the stream. */
async function refuse(stream: QuicStream, refusal: Refusal): Promise<void> {
  const { status, message, proxyError } = refusal;
  const proxyStatus = formatProxyStatus({
    proxy: PROXY_NAME,
    ...(proxyError && { error: proxyError }),
    details: message,
  });
  try {
    await writeAll(stream, formatConnectResponse(status, message, [["Proxy-Status", proxyStatus]]));
    await stream[Symbol.asyncDispose]();
  } catch {
    stream.abort();
  }
}

if (import.meta.main) {
  await runProgram({
    name: "proxy-agent",
    summary:
      "Dials a proxy-server from inside a private network and serves HTTP CONNECT on the streams it opens.",
    flags: agentFlags,
    run: async (values, signal) =>
      await runAgent({ ...values, tls: await loadAgentTls(values) }, { signal }),
  });
}
