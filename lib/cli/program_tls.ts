// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The files of certificates and keys that the flags of the programs name. */
import type { Monitor } from "../observe/monitor.ts";
import type { TlsFiles } from "../tls/files.ts";
import { ReloadingTls } from "../tls/reloading_tls.ts";
import type { AgentFlagValues, ServerFlagValues } from "./program_flags.ts";

/** Those of a server. */
export function serverTlsFiles(
  { clientCaFile, certFile, certKey }: Pick<
    ServerFlagValues,
    "clientCaFile" | "certFile" | "certKey"
  >,
): TlsFiles {
  return { caFile: clientCaFile, caFlag: "--client-ca-file", certFile, keyFile: certKey };
}

/** Those of an agent. */
export function agentTlsFiles(
  { caFile, certFile, certKey }: Pick<AgentFlagValues, "caFile" | "certFile" | "certKey">,
): TlsFiles {
  return { caFile, caFlag: "--ca-file", certFile, keyFile: certKey };
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
