// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { messageOf } from "../errors.ts";
import { type Party, type Reason, TunnelError } from "./errors.ts";

/** A cause for which an agent does not connect a tunnel, and what each place makes of it. */
interface FailureRow {
  /** On the wire (docs/protocol.md, "RESULT"). */
  readonly number: number;
  /** Whose doing it is. */
  readonly by: Party;
  /** Of the answer to CONNECT. */
  readonly status: number;
  /** Of the answer to a SOCKS client (RFC 1928 §6). */
  readonly socksReply: number;
  /** Proxy error types (RFC 9209 §2.3) that are told apart in the answer's Proxy-Status. */
  readonly proxyErrors: readonly string[];
  /**
   * Whether the tunnel is tried with another agent: as a default, where `--retry-on` names the
   * cause, or never.
   */
  readonly retry: "default" | "optional" | "never";
}

/** Every cause for which an agent does not connect a tunnel. */
export const failures = {
  "bad-request": {
    number: 1,
    by: "client",
    status: 400,
    socksReply: 1,
    proxyErrors: ["http_request_error"],
    retry: "never",
  },
  "draining": {
    number: 8,
    by: "agent",
    status: 503,
    socksReply: 1,
    proxyErrors: [],
    retry: "default",
  },
  "overloaded": {
    number: 7,
    by: "agent",
    status: 503,
    socksReply: 1,
    proxyErrors: ["connection_limit_reached"],
    retry: "default",
  },
  "refused": {
    number: 2,
    by: "target",
    status: 502,
    socksReply: 5,
    proxyErrors: ["connection_refused"],
    retry: "optional",
  },
  "timeout": {
    number: 3,
    by: "target",
    status: 504,
    socksReply: 4,
    proxyErrors: ["connection_timeout", "dns_timeout"],
    retry: "optional",
  },
  "unreachable": {
    number: 4,
    by: "target",
    status: 502,
    socksReply: 3,
    proxyErrors: ["destination_ip_unroutable"],
    retry: "optional",
  },
  "unknown-name": {
    number: 5,
    by: "target",
    status: 502,
    socksReply: 4,
    proxyErrors: ["dns_error"],
    retry: "optional",
  },
  "denied": {
    number: 6,
    by: "agent",
    status: 403,
    socksReply: 2,
    proxyErrors: ["destination_ip_prohibited", "http_request_denied"],
    retry: "optional",
  },
  "internal-error": {
    number: 9,
    by: "agent",
    status: 502,
    socksReply: 1,
    proxyErrors: ["proxy_internal_error"],
    retry: "optional",
  },
} as const satisfies Record<string, FailureRow>;

/** How a server answers where no agent has, by how the tunnel ended; `error` is for all others. */
export const serverFailures: ServerFailures = {
  "no-agent": { status: 503, proxyError: "destination_unavailable" },
  "no-route": { status: 502, proxyError: "destination_not_found" },
  "connect-timeout": { status: 504, proxyError: "connection_timeout" },
  "connection-lost": {
    status: 503,
    proxyError: "destination_unavailable",
    words: "the agent was lost",
  },
  "connection-closed": {
    status: 503,
    proxyError: "destination_unavailable",
    words: "the agent has left",
  },
  "refused": {
    status: 502,
    proxyError: "connection_refused",
    words: "the agent has not connected the target",
  },
  "end": { status: 502, proxyError: "connection_terminated" },
  "error": {
    status: 502,
    proxyError: "connection_terminated",
    words: "the agent has ended the tunnel",
  },
};

type ServerFailures =
  & Partial<Record<Reason, ServerFailure>>
  & Record<"error", ServerFailure>;

interface ServerFailure {
  readonly status: number;
  /** Proxy error type (RFC 9209 §2.3). */
  readonly proxyError: string;
  /** What comes before the error's own words, where these are not for clients. */
  readonly words?: string;
}

/** Why an agent has not connected a tunnel. */
export type FailureCode = keyof typeof failures;

/** The same, where RFC 9209 §2.3 has a word for it. */
export type ProxyError = (typeof failures)[FailureCode]["proxyErrors"][number];

/** Why an agent has not connected a tunnel, and in words. */
export interface Failure {
  readonly code: FailureCode;
  readonly text: string;
}

/**
 * Why a tunnel was not connected: what the agent said, or `gone` when the agent was lost before it
 * said anything.
 */
export type RetryCause = FailureCode | "gone";

/** Every code, in the order of their numbers. */
export const failureCodes = (Object.keys(failures) as FailureCode[])
  .sort((a, b) => failures[a].number - failures[b].number);

const codesByProxyError = new Map<ProxyError, FailureCode>(
  failureCodes.flatMap((code) => failures[code].proxyErrors.map((error) => [error, code] as const)),
);

/** Causes for which a tunnel is tried with another agent, unless `--retry-on` names others. */
export const DEFAULT_RETRY_CAUSES: readonly RetryCause[] = causesThatRetry("default");

/** Causes for which a tunnel may be tried with another agent. */
export const RETRY_CAUSES: readonly RetryCause[] = [
  ...DEFAULT_RETRY_CAUSES,
  ...causesThatRetry("optional"),
];

function causesThatRetry(retry: FailureRow["retry"]): RetryCause[] {
  const codes = (Object.keys(failures) as FailureCode[]).filter((code) =>
    failures[code].retry === retry
  );
  return retry === "default" ? [...codes, "gone"] : codes;
}

/** The cause that a proxy error type stands for. */
export function codeOfProxyError(error: ProxyError): FailureCode {
  return codesByProxyError.get(error)!;
}

/** A tunnel that the agent does not connect. */
export class NotConnectedError extends TunnelError {
  override readonly name: string = "NotConnectedError";
  /** Status of the answer to CONNECT. */
  readonly status: number;
  /** Proxy error type of that answer. */
  readonly proxyError: ProxyError | undefined;

  /** @param options the status and the proxy error type where they are not those of the code */
  constructor(
    readonly code: FailureCode,
    message: string,
    options: ErrorOptions & { readonly status?: number; readonly proxyError?: ProxyError } = {},
  ) {
    const { by, status } = failures[code];
    super(by, "refused", message, options);
    this.status = options.status ?? status;
    this.proxyError = options.proxyError;
  }
}

/** What the agent reports to the server for an error that kept it from connecting a tunnel. */
export function failureOf(error: unknown): Failure {
  const code = error instanceof NotConnectedError ? error.code : "internal-error";
  return { code, text: messageOf(error) };
}
