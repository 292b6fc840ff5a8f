// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { UsageError } from "../errors.ts";
import { hostNameProblem } from "../net/authority.ts";
import { isIpAddress } from "../net/ip_address.ts";
import { quote } from "../printable.ts";
import { type CertificateSet, namesByKind, type WantedCertificate } from "./certificate_set.ts";

/** The name that agents verify, whatever address they dial. */
const SERVER_NAME = "quic-tunnel-server";

/** What a server and its agents need. */
export interface TunnelSetOptions {
  /** Names and IP addresses of the server, in addition to `quic-tunnel-server`. */
  readonly serverNames: readonly string[];
  /** Each agent's name, in its certificate and of its files. */
  readonly agentNames: readonly string[];
  /** How long certificates are valid, in days. */
  readonly validDays: number;
}

/**
 * The certificates of a server and its agents: `server.pem`, and `NAME.pem` for each agent.
 *
 * @throws {UsageError} when a name is not valid
 */
export function tunnelSet(
  { serverNames, agentNames, validDays }: TunnelSetOptions,
): CertificateSet {
  for (const name of serverNames) {
    const problem = isIpAddress(name) ? undefined : hostNameProblem(name);
    if (problem) throw new UsageError(`--cert-name ${quote(name)}: ${problem}`);
  }
  checkAgentNames(agentNames);
  const { dnsNames, ipAddresses } = namesByKind(serverNames);
  return {
    caName: "quic-reverse-http-tunnel CA",
    validDays,
    certificates: [
      {
        file: "server",
        commonName: SERVER_NAME,
        usage: "server",
        dnsNames: [...new Set([SERVER_NAME, ...dnsNames])],
        ipAddresses,
      },
      ...agentNames.map(agentCertificate),
    ],
  };
}

/** The certificate of an agent with a name. */
export function agentCertificate(name: string): WantedCertificate {
  return { file: name, commonName: name, usage: "client", dnsNames: [name] };
}

/**
 * Checks that names of agents may be those of files.
 *
 * @param taken names of other files of the set
 * @throws {UsageError} when one may not
 */
export function checkAgentNames(names: readonly string[], taken: readonly string[] = []): void {
  for (const name of names) {
    if (!/^[A-Za-z0-9][\w.-]*$/.test(name) || ["ca", "server", ...taken].includes(name)) {
      throw new UsageError(`--agent-name ${quote(name)} cannot be the name of a file`);
    }
  }
}
