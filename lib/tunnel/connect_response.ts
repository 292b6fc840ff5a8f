// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The answer to a CONNECT whose target has been reached. Shared: not to be written to. */
export const CONNECT_OK: Uint8Array<ArrayBuffer> = new TextEncoder().encode(
  "HTTP/1.1 200 OK\r\n\r\n",
);

const MAX_REASON_LENGTH = 256;
const MAX_DETAILS_LENGTH = 256;

/**
 * Writes an answer to a CONNECT. One that is not 2xx says that it has no content and closes the
 * connection; a 2xx carries no framing (RFC 9110 §9.3.6). A 405 names the allowed method (§15.5.6).
 *
 * @param reason any text: characters that a reason phrase cannot have (RFC 9112 §4), and those
 * beyond ASCII, become spaces, and it is cut to 256 characters
 * @param fields header fields to add; their values are cleaned in the same way, but not cut
 */
export function formatConnectResponse(
  status: number,
  reason: string,
  fields: readonly (readonly [name: string, value: string])[] = [],
): Uint8Array<ArrayBuffer> {
  const lines = [`HTTP/1.1 ${status} ${toPhrase(reason.slice(0, MAX_REASON_LENGTH))}`];
  for (const [name, value] of fields) lines.push(`${name}: ${toPhrase(value)}`);
  if (status === 405) lines.push("Allow: CONNECT");
  if (status >= 300) lines.push("Content-Length: 0", "Connection: close");
  return new TextEncoder().encode(`${lines.join("\r\n")}\r\n\r\n`);
}

/** Name of the agent in Proxy-Status. */
export const PROXY_NAME = "quic-tunnel-agent";

/** Why a target was not connected: a `NotConnectedError`, or what a server has found itself. */
export interface Refusal {
  readonly status: number;
  /** In words. */
  readonly message: string;
  /** Proxy error type (RFC 9209 §2.3). */
  readonly proxyError: string | undefined;
}

/**
 * Writes the answer to a CONNECT whose target was not connected. The cause in words is the reason
 * phrase, the only part that kube-apiserver shows, and in Proxy-Status.
 *
 * @param proxy who answers, in Proxy-Status
 */
export function formatRefusal(
  { status, message, proxyError }: Refusal,
  proxy = PROXY_NAME,
): Uint8Array<ArrayBuffer> {
  const proxyStatus = formatProxyStatus({
    proxy,
    ...(proxyError && { error: proxyError }),
    details: message,
  });
  return formatConnectResponse(status, message, [["Proxy-Status", proxyStatus]]);
}

/** The members of a Proxy-Status field that a tunnel has to tell. */
export interface ProxyStatus {
  /** Who answers, such as `quic-tunnel-agent`. */
  readonly proxy: string;
  /** A proxy error type of RFC 9209 §2.3, such as `connection_refused`. */
  readonly error?: string;
  /** The cause in words; cut to 256 characters. */
  readonly details?: string;
}

/**
 * Writes the value of a Proxy-Status field (RFC 9209 §2) with one member. What a structured field
 * (RFC 9651) cannot hold in a string, all but visible ASCII and spaces, becomes a space.
 */
export function formatProxyStatus({ proxy, error, details }: ProxyStatus): string {
  let value = isStructuredToken(proxy) ? proxy : toStructuredString(proxy);
  if (error !== undefined) value += `; error=${error}`;
  if (details !== undefined) {
    value += `; details=${toStructuredString(details.slice(0, MAX_DETAILS_LENGTH))}`;
  }
  return value;
}

function toPhrase(text: string): string {
  return text.replace(/[^\t\x20-\x7e]/g, " ");
}

/** RFC 9651 §3.3.4. */
function isStructuredToken(text: string): boolean {
  return /^[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*$/.test(text);
}

/** RFC 9651 §3.3.3. */
function toStructuredString(text: string): string {
  return `"${text.replace(/[^\x20-\x7e]/g, " ").replace(/["\\]/g, "\\$&")}"`;
}
