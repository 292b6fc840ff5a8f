// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** A receiver of spans (OTLP by HTTP, in JSON) on loopback. */

type Value = { readonly stringValue: string } | { readonly doubleValue: number };

interface Pair {
  readonly key: string;
  readonly value: Value;
}

interface RawSpan {
  readonly name: string;
  readonly kind: number;
  readonly traceId: string;
  readonly parentSpanId: string;
  readonly attributes: readonly Pair[];
  readonly events: readonly { readonly name: string; readonly attributes: readonly Pair[] }[];
  readonly status: { readonly code: number; readonly message: string };
}

interface Export {
  readonly resourceSpans?: readonly {
    readonly scopeSpans: readonly { readonly spans: readonly RawSpan[] }[];
  }[];
}

export type Attributes = Readonly<Record<string, string | number>>;

export interface ReceivedSpan extends Omit<RawSpan, "attributes" | "events"> {
  readonly attributes: Attributes;
  readonly events: readonly { readonly name: string; readonly attributes: Attributes }[];
}

const attributesOf = (pairs: readonly Pair[]): Attributes =>
  Object.fromEntries(pairs.map(({ key, value }) => [key, Object.values(value)[0]]));

export class OtlpReceiver implements AsyncDisposable {
  /** In the order in which they came. */
  readonly spans: ReceivedSpan[] = [];
  readonly #server: Deno.HttpServer<Deno.NetAddr>;

  constructor() {
    const quiet = { hostname: "127.0.0.1", port: 0, onListen: () => {} };
    this.#server = Deno.serve(quiet, async (request) => {
      const { resourceSpans = [] }: Export = await request.json();
      for (const span of resourceSpans.flatMap((each) => each.scopeSpans).flatMap((s) => s.spans)) {
        this.spans.push({
          ...span,
          attributes: attributesOf(span.attributes),
          events: span.events.map(({ name, attributes }) => ({
            name,
            attributes: attributesOf(attributes),
          })),
        });
      }
      return Response.json({});
    });
  }

  /** The environment of a program that is to send its spans here, soon. */
  get env(): Record<string, string> {
    return {
      OTEL_DENO: "true",
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${this.#server.addr.port}`,
      OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
      OTEL_BSP_SCHEDULE_DELAY: "100",
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
  }
}
