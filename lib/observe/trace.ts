// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Spans of tunnels (OpenTelemetry). Server and agent have one each per tunnel, in a trace with the
 * tunnel's ID. Deno exports them if started with `OTEL_DENO=true`; otherwise none are made.
 * `docs/logging.md` describes them.
 */
import type { Attributes, Span } from "@opentelemetry/api";
import type { Authority } from "../net/authority.ts";
import { formatIp, type SocketAddress } from "../net/ip_address.ts";
import { version } from "../version.ts";

/** Where the API keeps its providers. Deno registers itself before any code runs, or never. */
const REGISTRY = Symbol.for("opentelemetry.js.api.1");

/** The API, loaded only where somebody records. */
const api = REGISTRY in globalThis ? await import("@opentelemetry/api") : undefined;
const tracer = api?.trace.getTracer("quic-reverse-http-tunnel", version);

/** What is known of a tunnel at its begin. */
export interface TracedTunnel {
  readonly tunnelId?: Uint8Array | undefined;
  readonly client?: SocketAddress | undefined;
  /** The connection and the stream that it has, once it has some, as logs have them. */
  readonly cid?: string | undefined;
  readonly stream?: number;
}

/** How a tunnel ended, in the words of the log. */
export interface TracedEnding {
  readonly by?: string | undefined;
  readonly reason: string;
  /** Why the target was not connected. */
  readonly result?: string | undefined;
  readonly error?: string | undefined;
  readonly sent?: number;
  readonly received?: number;
}

/** The span of a tunnel. */
export class TunnelSpan {
  readonly #span: Span;

  constructor(span: Span) {
    this.#span = span;
  }

  /** Something has happened just now. */
  event(name: string, attributes: Attributes = {}): void {
    this.#span.addEvent(name, attributes);
  }

  /** The target is known, and is dialled from now on. */
  dials({ hostname, port }: Authority): void {
    const target = { "server.address": hostname, "server.port": port };
    this.#span.setAttributes(target);
    this.event("dial", target);
  }

  /** The target is connected, at this address. */
  connected({ hostname, port }: Authority): void {
    this.event("connected", peerAttributes(hostname, port));
  }

  end({ by, reason, result, error, sent, received }: TracedEnding): void {
    this.#span.setAttributes(given({
      "qrht.by": by,
      "qrht.reason": reason,
      "qrht.result": result,
      "qrht.sent": sent,
      "qrht.received": received,
    }));
    const { SpanStatusCode } = api!;
    if (reason === "end") this.#span.setStatus({ code: SpanStatusCode.OK });
    else {
      this.#span.setAttribute("error.type", result ?? reason);
      this.#span.setStatus({ code: SpanStatusCode.ERROR, message: error ?? reason });
    }
    this.#span.end();
  }
}

/** The other end of a connection, by OpenTelemetry's names. */
export function peerAttributes(host: string, port: number): Attributes {
  return { "network.peer.address": host, "network.peer.port": port };
}

/** Begins the span of a tunnel; undefined unless Deno records spans. */
export function startTunnelSpan(
  self: "server" | "agent",
  { tunnelId, client, cid, stream }: TracedTunnel,
): TunnelSpan | undefined {
  if (!api || !tracer) return undefined;
  const attributes = given({
    "network.transport": "tcp",
    "client.address": client && formatIp(client.ip),
    "client.port": client?.port,
    "qrht.cid": cid,
    "qrht.stream": stream,
  });
  const { SpanKind } = api;
  const kind = self === "server" ? SpanKind.SERVER : SpanKind.CLIENT;
  const options = { kind, attributes };
  return new TunnelSpan(tracer.startSpan(`tunnel ${self}`, options, contextOf(tunnelId)));
}

/**
 * Neither program knows the other's span, but both know the tunnel ID, which is as long as a trace
 * ID. The IDs of the trace and of the common parent span are made of it.
 */
function contextOf(tunnelId: Uint8Array | undefined) {
  const { ROOT_CONTEXT, trace, TraceFlags } = api!;
  if (!tunnelId) return ROOT_CONTEXT;
  return trace.setSpanContext(ROOT_CONTEXT, {
    traceId: tunnelId.toHex(),
    spanId: tunnelId.subarray(8).toHex(),
    traceFlags: TraceFlags.SAMPLED,
    isRemote: true,
  });
}

function given(attributes: Readonly<Record<string, string | number | undefined>>): Attributes {
  return Object.fromEntries(Object.entries(attributes).filter(([, value]) => value !== undefined));
}
