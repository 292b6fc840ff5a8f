// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The files of certificates and keys that the flags of the programs name. */
import type { Monitor } from "../observe/monitor.ts";
import { UsageError } from "../errors.ts";
import { checkIdentity, type TlsIdentity } from "../quic/mod.ts";
import type { TlsFiles } from "../tls/files.ts";
import type { TryOut } from "../tls/material.ts";
import { ReloadingTls } from "../tls/reloading_tls.ts";
import { ServerContext, servesStreams } from "../tls/tls_carrier.ts";
import type { Authority } from "../net/authority.ts";
import { type AgentFlagValues, DEFAULT_SERVER, type ServerFlagValues } from "./program_flags.ts";

type AgentTlsValues = Pick<AgentFlagValues, "join" | "caFile" | "certFile" | "certKey">;

/** Those of a server. */
export function serverTlsFiles(
  { clientCaFile, certFile, certKey }: Pick<
    ServerFlagValues,
    "clientCaFile" | "certFile" | "certKey"
  >,
): TlsFiles {
  return { caFile: clientCaFile, caFlag: "--client-ca-file", certFile, keyFile: certKey };
}

/**
 * Those of a server's TLS listener for clients, if it has one.
 *
 * @throws {UsageError} when one is missing, or the runtime cannot ask clients for certificates
 */
export function clientTlsFiles(
  { listenTls, tlsClientCaFile: caFile, tlsCertFile: certFile, tlsCertKey: keyFile }: Pick<
    ServerFlagValues,
    "listenTls" | "tlsClientCaFile" | "tlsCertFile" | "tlsCertKey"
  >,
): TlsFiles | undefined {
  if (!listenTls) return undefined;
  const flags = { certFlag: "--tls-cert-file", keyFlag: "--tls-cert-key" } as const;
  const caFlag = "--tls-client-ca-file";
  if (caFile === undefined || certFile === undefined || keyFile === undefined) {
    const given = { [flags.certFlag]: certFile, [flags.keyFlag]: keyFile, [caFlag]: caFile };
    const missing = Object.entries(given).flatMap(([flag, file]) => file === undefined ? flag : []);
    throw new UsageError(`--listen-tls needs ${missing.join(", ")}`);
  }
  if (!servesStreams()) {
    throw new UsageError(
      `--listen-tls needs Deno 2.9 or newer: ${Deno.version.deno} does not ask clients for certificates`,
    );
  }
  return { caFile, caFlag, certFile, keyFile, ...flags };
}

/**
 * Those of an agent.
 *
 * @throws {UsageError} when a bundle is given in addition to them
 */
export function agentTlsFiles({ join, caFile, certFile, certKey }: AgentTlsValues): TlsFiles {
  const others = { "--ca-file": caFile, "--cert-file": certFile, "--cert-key": certKey };
  const given = Object.entries(others).find(([, value]) => value !== undefined);
  if (join !== undefined) {
    if (given) throw new UsageError(`--join cannot be combined with ${given[0]}`);
    return { bundle: join };
  }
  // Each is required without --join.
  return { caFile: caFile!, caFlag: "--ca-file", certFile: certFile!, keyFile: certKey! };
}

/**
 * The servers of an agent.
 *
 * @param ofBundle the address in its bundle
 */
export function serversOf(
  { servers }: Pick<AgentFlagValues, "servers">,
  ofBundle: Authority | undefined,
): readonly Authority[] {
  return servers.length > 0 ? servers : [ofBundle ?? DEFAULT_SERVER];
}

/**
 * Reads the files. To be read again when they change, they have to be watched as well.
 *
 * @param monitor knows from now on which certificates are in use
 * @param tryOut has the TLS library of QUIC load them. @default {the binding's}
 * @throws {UsageError} when a file cannot be read, or is of no use
 */
export async function loadTls(
  files: TlsFiles,
  monitor: Monitor,
  tryOut?: TryOut,
): Promise<ReloadingTls> {
  const tls = await ReloadingTls.load(files, tryOut && { tryOut });
  monitor.readFrom({ certificates: () => tls.current.certificates });
  return tls;
}

/** Has the TLS library of the listener for clients load certificates and key. */
export function tryOutTls(identity: TlsIdentity): void {
  new ServerContext(identity, { asksClients: true });
}

/** Has both TLS libraries of a server with `--listen-fallback` load certificates and key. */
export function tryOutFallback(identity: TlsIdentity): void {
  checkIdentity(identity);
  new ServerContext(identity, { asksClients: false });
}

/**
 * Reads those of a TLS listener for clients, likewise.
 *
 * @param agentTls those for agents, which the monitor goes on knowing
 */
export async function loadClientTls(
  files: TlsFiles,
  agentTls: ReloadingTls,
  monitor: Monitor,
): Promise<ReloadingTls> {
  const tls = await ReloadingTls.load(files, { tryOut: tryOutTls });
  monitor.readFrom({
    certificates: () => [...agentTls.current.certificates, ...tls.current.certificates],
  });
  return tls;
}
