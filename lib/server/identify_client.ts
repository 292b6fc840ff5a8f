// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Identifies clients: the peer of the connection, or the client that a load balancer names. */
import { type Cidr, cidrContains } from "../net/cidr.ts";
import { type Duplex, prepend } from "../tunnel/duplex.ts";
import { formatSocketAddress } from "../net/authority.ts";
import { formatIp, type SocketAddress } from "../net/ip_address.ts";
import { ProxyHeaderParser, type ProxyHeaderResult } from "../tunnel/proxy_protocol.ts";
import { TunnelError } from "../tunnel/errors.ts";
import { within } from "../wait.ts";
import type { FrontClient } from "./front.ts";

export interface Client {
  readonly address?: SocketAddress | undefined;
  /** Where it has connected to. */
  readonly listener?: SocketAddress | undefined;
  /** The load balancer that it has come through. */
  readonly via?: SocketAddress;
  /** Its bytes, without the header of the PROXY protocol. */
  readonly carrier: Duplex;
}

/** The connection of a trusted source does not begin with a valid PROXY protocol header. */
export class ProxyHeaderError extends TunnelError {
  override readonly name = "ProxyHeaderError";
  constructor(message: string) {
    super(undefined, "protocol-error", message);
  }
}

/** Room for a header and what comes with it. */
const READ_BYTES = 4096;

/** How long a load balancer may take to send the header. */
const HEADER_TIMEOUT_MS = 5_000;

/**
 * The address that limits apply to before {@linkcode identifyClient} knows better: the connections
 * of a load balancer are nobody's yet.
 */
export function hostOf(remote: SocketAddress, trusted: readonly Cidr[]): string {
  return isTrusted(remote, trusted) ? formatSocketAddress(remote) : formatIp(remote.ip);
}

function isTrusted({ ip }: SocketAddress, trusted: readonly Cidr[]): boolean {
  return trusted.some((network) => cidrContains(network, ip));
}

/**
 * Identifies the client of a connection.
 *
 * @param connection a connection without an address is none of a load balancer
 * @param trusted sources whose connections must begin with a PROXY protocol header; in others none
 * is looked for
 * @param timeoutMs time for that header
 * @returns undefined if a trusted source closes without a byte, as health checks do
 * @throws {ProxyHeaderError} when the header is missing, late or invalid
 */
export async function identifyClient(
  { carrier, remote: address, local: listener, via }: FrontClient,
  trusted: readonly Cidr[],
  timeoutMs = HEADER_TIMEOUT_MS,
): Promise<Client | undefined> {
  if (!address || via || !isTrusted(address, trusted)) {
    return { address, listener, ...(via && { via }), carrier };
  }
  const late = () => new ProxyHeaderError(`no PROXY header within ${timeoutMs} ms`);
  const header = await within(timeoutMs, readHeader(carrier), late);
  if (!header) return undefined;
  return {
    address: header.client ?? address,
    listener: header.listener ?? listener,
    via: address,
    carrier: prepend(header.rest, carrier),
  };
}

async function readHeader(
  carrier: Duplex,
): Promise<Extract<ProxyHeaderResult, { kind: "header" }> | undefined> {
  const parser = new ProxyHeaderParser();
  const buffer = new Uint8Array(READ_BYTES);
  let received = 0;
  for (let n; (n = await carrier.read(buffer)) !== null;) {
    received += n;
    const result = parser.push(buffer.subarray(0, n));
    if (result.kind === "reject") throw new ProxyHeaderError(result.reason);
    if (result.kind === "header") return result;
  }
  if (received === 0) return undefined;
  throw new ProxyHeaderError("the connection ends within the PROXY header");
}
