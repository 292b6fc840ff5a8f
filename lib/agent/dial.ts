// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { type Denial, denialOf, denialOfName, type Rules } from "./acl.ts";
import { type Authority, formatAuthority } from "../net/authority.ts";
import { messageOf } from "../errors.ts";
import { firstToSucceed, interleaveFamilies } from "../net/happy_eyeballs.ts";
import { formatIp, ipBytes } from "../net/ip_address.ts";
import { hasLocalAddressFor } from "../net/libc.ts";
import { onAbort } from "../on_abort.ts";
import { Resolver } from "../net/resolver.ts";
import { connectTcp } from "../net/tcp_reset.ts";
import { codeOfProxyError, NotConnectedError, type ProxyError } from "../tunnel/failure.ts";

/** Proxy error types that a dial can end in. */
export type DialFailure = Exclude<ProxyError, "http_request_error">;

/** A target that could not be connected to. */
export class DialError extends NotConnectedError {
  override readonly name = "DialError";
  /** The address that was denied, where that was known. */
  readonly ip: Uint8Array | undefined;
  constructor(
    readonly failure: DialFailure,
    message: string,
    options?: ErrorOptions & { readonly ip?: Uint8Array | undefined },
  ) {
    super(codeOfProxyError(failure), message, { ...options, proxyError: failure });
    this.ip = options?.ip;
  }
}

/** Refuses, drops or takes connections: `connectTcp`, or a test's own. */
export type Connect = (
  options: { hostname: string; port: number; signal: AbortSignal },
) => Promise<Deno.TcpConn>;

export interface DialOptions {
  /** Bound of the whole: the name's resolution and every address of it. */
  readonly timeoutMs: number;
  /** Gives up early. */
  readonly signal?: AbortSignal;
  /** What may be dialled. Without them it is everything, what is denied by default included. */
  readonly rules?: Rules | undefined;
  /** @default one that all dials share */
  readonly resolver?: Resolver | undefined;
  readonly connect?: Connect;
  /** Time until the next address is tried in parallel. @default {250} */
  readonly attemptDelayMs?: number;
}

/** Most addresses of a name that are tried. */
const MAX_ATTEMPTS = 16;

/** The resolver of all dials of this process, which have its threads in common. */
const systemResolver = new Resolver();

/**
 * Connects to a target over TCP. A name is resolved once, so the addresses dialled are those that
 * were checked.
 *
 * @throws {DialError} whose message names the target and the cause
 * @throws the signal's reason when it aborts first
 */
export async function dial(target: Authority, options: DialOptions): Promise<Deno.TcpConn> {
  const { timeoutMs, signal, rules, resolver = systemResolver } = options;
  signal?.throwIfAborted();
  const over = new AbortController();
  const stopListening = signal && onAbort(signal, () => over.abort(signal.reason));
  let ips: readonly Uint8Array[] | undefined;
  const timer = setTimeout(() => over.abort(tooLate(target, timeoutMs, !ips)), timeoutMs);
  try {
    const own = ipBytes(target.hostname);
    ips = own ? [own] : await resolve(target, rules, resolver, over.signal);
    const allowed = rules ? allowedOf(ips, target, rules) : ips;
    const connection = await connectToOne(allowed, target.port, options, over.signal);
    const denial = rules?.own?.length ? denialOfOwn(rules, target, connection) : undefined;
    if (!denial) return connection;
    connection.close();
    throw denied(target, denial);
  } catch (thrown) {
    const error = thrown instanceof AggregateError ? mostTelling(thrown.errors) : thrown;
    if (error instanceof DialError || (over.signal.aborted && error === over.signal.reason)) {
      throw error;
    }
    const [failure, cause] = classify(error);
    throw new DialError(failure, `${formatAuthority(target)}: ${cause}`, { cause: error });
  } finally {
    clearTimeout(timer);
    stopListening?.();
  }
}

function tooLate(target: Authority, timeoutMs: number, isResolving: boolean): DialError {
  const cause = isResolving ? "name not resolved" : "no answer";
  return new DialError(
    isResolving ? "dns_timeout" : "connection_timeout",
    `${formatAuthority(target)}: ${cause} within ${timeoutMs} ms`,
  );
}

/** All local ports are in use for connections to one address and port. */
class NoPortError extends Error {
  override readonly name = "NoPortError";
  readonly code = "EADDRINUSE";
}

/**
 * Whether no port was left: the system's error is the same when it has no address of the family.
 */
function isForWantOfPort(error: unknown, ip: Uint8Array): boolean {
  return codeOf(error) === "EADDRNOTAVAIL" && hasLocalAddressFor(ip);
}

/** The addresses of a target that is a name, at least one. */
async function resolve(
  target: Authority,
  rules: Rules | undefined,
  resolver: Resolver,
  signal: AbortSignal,
): Promise<readonly Uint8Array[]> {
  const denial = rules && denialOfName(rules, target);
  if (denial) throw denied(target, denial);
  const ips = await resolver.resolve(target.hostname, signal);
  if (ips.length === 0) {
    throw new DialError("dns_error", `${formatAuthority(target)}: ${NO_ADDRESS}`);
  }
  return ips;
}

/** The addresses of a target that may be dialled, at least one. */
function allowedOf(
  ips: readonly Uint8Array[],
  target: Authority,
  rules: Rules,
): readonly Uint8Array[] {
  const denials = ips.map((ip) => denialOf(rules, target, ip));
  const allowed = ips.filter((_, i) => !denials[i]);
  if (allowed.length === 0) throw denied(target, denials[0]!, ips[0]);
  return allowed;
}

/**
 * Judges a connection to an address of this machine, which is only recognized when it is there: its
 * two ends have the same address then.
 */
function denialOfOwn(
  rules: Rules,
  target: Authority,
  { localAddr, remoteAddr }: Deno.TcpConn,
): Denial | undefined {
  if (localAddr.hostname !== remoteAddr.hostname) return undefined;
  const ip = ipBytes(remoteAddr.hostname);
  return ip && denialOf(rules, target, ip, true);
}

function denied(target: Authority, denial: Denial, ip?: Uint8Array): DialError {
  const failure = denial.byAddress ? "destination_ip_prohibited" : "http_request_denied";
  return new DialError(failure, `${formatAuthority(target)}: ${denial.reason}`, { ip });
}

function connectToOne(
  ips: readonly Uint8Array[],
  port: number,
  { connect = connectTcp, attemptDelayMs }: DialOptions,
  signal: AbortSignal,
): Promise<Deno.TcpConn> {
  return firstToSucceed(interleaveFamilies(ips).slice(0, MAX_ATTEMPTS), {
    attempt: async (ip, signal) => {
      try {
        return await connect({ hostname: formatIp(ip), port, signal });
      } catch (error) {
        throw isForWantOfPort(error, ip) ? new NoPortError(NO_PORT, { cause: error }) : error;
      }
    },
    discard: (connection) => connection.close(),
    signal,
    ...(attemptDelayMs !== undefined && { delayMs: attemptDelayMs }),
  });
}

/**
 * The error of the preferred address, unless that is only that its family has no route.
 */
function mostTelling(errors: readonly unknown[]): unknown {
  const isTelling = (error: unknown) => classify(error)[0] !== "destination_ip_unroutable";
  return errors.find(isTelling) ?? errors[0];
}

const NO_ADDRESS = "name does not resolve";
const NO_PORT = "the agent is out of local ports";
/** Words for an agent at its limit of tunnels, too. */
export const OUT_OF_FILES = "the agent is out of file descriptors";

/** The errors of connect(2), socket(2), bind(2) and of lookups, and what they mean for who asked. */
const causes: Readonly<Record<string, readonly [DialFailure, string]>> = {
  ECONNREFUSED: ["connection_refused", "connection refused"],
  ECONNRESET: ["connection_refused", "connection reset"],
  ETIMEDOUT: ["connection_timeout", "connection timed out"],
  ECONNABORTED: ["connection_refused", "connection aborted"],
  ENOPROTOOPT: ["connection_refused", "protocol not available"],
  EMFILE: ["connection_limit_reached", OUT_OF_FILES],
  ENFILE: ["connection_limit_reached", "the agent's machine is out of file descriptors"],
  ENOBUFS: ["connection_limit_reached", "the agent's machine is out of memory for sockets"],
  ENOMEM: ["connection_limit_reached", "the agent's machine is out of memory for sockets"],
  EADDRINUSE: ["connection_limit_reached", NO_PORT],
  EAGAIN: ["connection_limit_reached", NO_PORT],
  EADDRNOTAVAIL: ["destination_ip_unroutable", "no local address to connect from"],
  ENETUNREACH: ["destination_ip_unroutable", "network unreachable"],
  ENETDOWN: ["destination_ip_unroutable", "network is down"],
  EHOSTUNREACH: ["destination_ip_unroutable", "host unreachable"],
  EHOSTDOWN: ["destination_ip_unroutable", "host is down"],
  EAFNOSUPPORT: ["destination_ip_unroutable", "address family not supported"],
  EPROTONOSUPPORT: ["destination_ip_unroutable", "address family not supported"],
  EINVAL: [
    "destination_ip_unroutable",
    "the agent's machine has a blackhole route for it, or it is not a valid destination",
  ],
  EACCES: ["destination_ip_prohibited", "prohibited by a route or firewall of the agent's machine"],
  EPERM: ["destination_ip_prohibited", "prohibited by a route or firewall of the agent's machine"],
  ENOTFOUND: ["dns_error", NO_ADDRESS],
  ENODATA: ["dns_error", NO_ADDRESS],
  EAI_FAIL: ["dns_error", NO_ADDRESS],
  EAI_AGAIN: ["dns_error", "temporary failure in name resolution"],
};

function classify(error: unknown): readonly [DialFailure, string] {
  return causes[codeOf(error) ?? ""] ?? ["proxy_internal_error", messageOf(error)];
}

const codeOf = (error: unknown) => (error as { readonly code?: string }).code;
