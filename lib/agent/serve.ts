// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What both agents do with a tunnel: connect it to its target, forward its bytes, log its end. */
import type { Logger } from "../log.ts";
import { type Authority, formatAuthority } from "../net/authority.ts";
import { maxTunnels } from "../net/descriptors.ts";
import type { TcpKeepaliveOptions } from "../net/tcp_keepalive.ts";
import type { Resolver } from "../net/resolver.ts";
import { endingOf, summarize } from "../observe/ending.ts";
import type { TunnelEnding } from "../observe/monitor.ts";
import { type Failure, failures } from "../tunnel/failure.ts";
import { type Duplex, writeAll } from "../tunnel/duplex.ts";
import type { HttpExchange } from "../tunnel/http/exchange.ts";
import { TunnelError } from "../tunnel/errors.ts";
import { pipeDuplex, type TunnelTimeouts } from "../tunnel/pipe.ts";
import { tcpDuplex } from "../tunnel/tcp_duplex.ts";
import type { Rules } from "./acl.ts";
import { dial, DialError, OUT_OF_FILES } from "./dial.ts";
import type { ServedTunnel } from "./session.ts";
import { ANSWER_TIMEOUT_MS } from "../qrht/tunnel.ts";
import { within } from "../wait.ts";

/** What all tunnels of an agent have in common. */
export interface TunnelService extends TcpKeepaliveOptions {
  readonly dialTimeoutMs: number;
  readonly timeouts: TunnelTimeouts;
  /** What may be dialled. @default {everything} */
  readonly rules?: Rules;
  /** Resolves the names of targets. @default {the system's} */
  readonly resolver?: Resolver | undefined;
  readonly log: Logger;
}

/** Where one tunnel goes. */
export interface Destination {
  readonly target: Authority;
  /** What the log calls it. */
  readonly name: string;
  /** When the tunnel began, by `performance.now()`. */
  readonly since: number;
  /** Gives the client's bytes. */
  readonly client: Duplex;
  /** What the client gets before the target's bytes. */
  readonly answer?: Uint8Array;
  /** What the target gets before the client's bytes. */
  readonly header?: Uint8Array | undefined;
  /** Protocol of the client, where there is a choice. */
  readonly via?: string;
  /** Makes the connection to the target one that speaks what the client does. */
  readonly exchange?: (upstream: Duplex) => HttpExchange;
}

/** Tunnels that have a connection to their target, or are getting one. */
let tunnels = 0;

/**
 * Connects a tunnel to its target, and carries its bytes to their end.
 *
 * @param signal aborts when the tunnel's connection has ended
 * @throws {DialError} when the target is not connected
 * @throws when the header or the answer cannot be written, or the signal aborts before
 */
export async function connectAndCarry(
  tunnel: ServedTunnel,
  destination: Destination,
  service: TunnelService,
  signal: AbortSignal,
): Promise<void> {
  // Counted, as many may begin before any has its descriptor.
  if (tunnels >= maxTunnels()) {
    const text = `${formatAuthority(destination.target)}: ${OUT_OF_FILES}`;
    throw new DialError("connection_limit_reached", text);
  }
  tunnels++;
  try {
    await carry(tunnel, destination, service, signal);
  } finally {
    tunnels--;
  }
}

async function carry(
  tunnel: ServedTunnel,
  { target, name, since, client, answer, header, via, exchange: toExchange }: Destination,
  { dialTimeoutMs: timeoutMs, timeouts, tcpKeepaliveMs, rules, resolver, log }: TunnelService,
  signal: AbortSignal,
): Promise<void> {
  const { carrier, fields, record, mayBeAbandoned } = tunnel;
  record.span?.dials(target);
  const connection = await dial(target, { timeoutMs, signal, rules, resolver });
  record.span?.connected(connection.remoteAddr);
  const upstream = tcpDuplex(connection, tcpKeepaliveMs);
  try {
    // No other agent may send the request again, which may not be idempotent (RFC 9110 §9.2.2).
    if (toExchange) await tunnel.sendConnected();
    if (header) await writeAll(upstream, header);
    record.connected();
    tunnel.connected();
    if (answer) await within(ANSWER_TIMEOUT_MS, writeAll(carrier, answer), answerStuck);
  } catch (error) {
    upstream.abort();
    throw error;
  }
  const exchange = toExchange?.(upstream);
  const result = await pipeDuplex(client, exchange ?? upstream, {
    timeouts,
    signal,
    watch: record.watch,
    mayBeAbandoned: () => mayBeAbandoned ? "a" : undefined,
  });
  const summary = {
    ...summarize(result, since, "agent"),
    ...(exchange?.failure && endingOf(exchange.failure, "target", "agent")),
  };
  log.debug("tunnel ended", { ...fields, via, target: name, ...summary });
  record.end(summary);
}

/** The peer leaves no room for the first bytes of a stream: its connection stands. */
const answerStuck = () =>
  new TunnelError("peer", "write-timeout", `it took no answer within ${ANSWER_TIMEOUT_MS} ms`);

/** How a tunnel ends that the agent does not connect. */
export function endingOfFailure({ code, text }: Failure): TunnelEnding {
  return { by: failures[code].by, reason: "refused", result: code, error: text };
}
