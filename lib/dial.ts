// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { type Authority, formatAuthority } from "./authority.ts";
import { messageOf } from "./errors.ts";
import type { Failure, FailureCode } from "./tunnel.ts";

/** Proxy error types of RFC 9209 §2.3 that a dial can end in. */
export type DialFailure =
  | "connection_refused"
  | "connection_timeout"
  | "connection_limit_reached"
  | "destination_ip_unroutable"
  | "dns_error"
  | "proxy_internal_error";

/** A target that could not be connected to. */
export class DialError extends Error {
  override readonly name = "DialError";
  constructor(readonly failure: DialFailure, message: string, options?: ErrorOptions) {
    super(message, options);
  }
}

const failureCodes: Readonly<Record<DialFailure, FailureCode>> = {
  connection_refused: "refused",
  connection_timeout: "timeout",
  connection_limit_reached: "overloaded",
  destination_ip_unroutable: "unreachable",
  dns_error: "unknown-name",
  proxy_internal_error: "internal-error",
};

/** What a server is told of a dial that failed. */
export function failureOf(error: unknown): Failure {
  const code = error instanceof DialError ? failureCodes[error.failure] : "internal-error";
  return { code, text: messageOf(error) };
}

/** Refuses, drops or takes connections: `Deno.connect`, or a test's own. */
export type Connect = (options: { hostname: string; port: number }) => Promise<Deno.TcpConn>;

/**
 * Connects to a target by TCP. The time covers name resolution and every address of the name.
 *
 * @param timeoutMs bound of the whole
 * @param signal gives up early
 * @throws {DialError} whose message names the target and the cause
 * @throws the signal's reason when it aborts first
 */
export async function dial(
  target: Authority,
  timeoutMs: number,
  signal?: AbortSignal,
  connect: Connect = Deno.connect,
): Promise<Deno.TcpConn> {
  signal?.throwIfAborted();
  const dialling = connect({ hostname: target.hostname, port: target.port });
  let stop!: () => void;
  const tooLate = new Promise<never>((_, reject) => {
    const timer = setTimeout(
      () =>
        reject(
          new DialError(
            "connection_timeout",
            `${formatAuthority(target)}: no answer in ${timeoutMs} ms`,
          ),
        ),
      timeoutMs,
    );
    const onAbort = () => reject(signal!.reason);
    signal?.addEventListener("abort", onAbort);
    stop = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    };
  });
  try {
    return await Promise.race([dialling, tooLate]);
  } catch (error) {
    // One that comes too late is of no use to anybody.
    dialling.then((connection) => connection.close(), () => {});
    if (error instanceof DialError || (signal?.aborted && error === signal.reason)) throw error;
    const [failure, cause] = classify(error);
    throw new DialError(failure, `${formatAuthority(target)}: ${cause}`, { cause: error });
  } finally {
    stop();
  }
}

/** The system's errors, and what they mean for who asked. */
const causes: Readonly<Record<string, readonly [DialFailure, string]>> = {
  ECONNREFUSED: ["connection_refused", "connection refused"],
  ECONNRESET: ["connection_refused", "connection reset"],
  ETIMEDOUT: ["connection_timeout", "connection timed out"],
  EMFILE: ["connection_limit_reached", "the agent is out of file descriptors"],
  ENFILE: ["connection_limit_reached", "the agent's machine is out of file descriptors"],
  ENETUNREACH: ["destination_ip_unroutable", "network unreachable"],
  EHOSTUNREACH: ["destination_ip_unroutable", "host unreachable"],
  EADDRNOTAVAIL: ["destination_ip_unroutable", "no address to reach it from"],
  EAFNOSUPPORT: ["destination_ip_unroutable", "address family not supported"],
  EINVAL: ["destination_ip_unroutable", "not an address to connect to"],
};

function classify(error: unknown): readonly [DialFailure, string] {
  const known = causes[(error as { code?: string }).code ?? ""];
  if (known) return known;
  const message = messageOf(error);
  // Failed name resolution comes without a code.
  if (/lookup address|resolve|no such host|no data of the requested type/i.test(message)) {
    return ["dns_error", "name does not resolve"];
  }
  return ["proxy_internal_error", message];
}
