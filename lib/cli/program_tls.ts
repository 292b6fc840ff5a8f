// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The files of certificates and keys that the flags of the programs name. */
import type { Monitor } from "../observe/monitor.ts";
import type { TlsFiles } from "../tls/files.ts";
import { ReloadingTls } from "../tls/reloading_tls.ts";
import { UsageError } from "../errors.ts";
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
 * @throws {UsageError} when a file cannot be read, or is of no use
 */
export async function loadTls(files: TlsFiles, monitor: Monitor): Promise<ReloadingTls> {
  const tls = await ReloadingTls.load(files);
  monitor.readFrom({ certificates: () => tls.current.certificates });
  return tls;
}
