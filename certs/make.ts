// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- a command for the terminal, which logs nothing

/**
 * `deno task certs`: certificates for server and agents on this machine, and for kube-apiserver.
 * Every program's task runs this first; whoever comes second finds the first one's set and keeps it.
 */
import { join } from "node:path";
import {
  type CertificateSet,
  keepSet,
  type KeepSetOptions,
  type KeptSet,
  replaceFile,
  writeSet,
} from "../lib/certs/certificate_set.ts";
import { agentCertificate, checkAgentNames } from "../lib/certs/tunnel_set.ts";
import { messageOf, NotParsedError, UsageError } from "../lib/errors.ts";
import { type Authority, parseAuthority } from "../lib/net/authority.ts";
import { formatIp, ipBytes } from "../lib/net/ip_address.ts";
import { parseCommandLine } from "../tools/command_line.ts";
import { egressSelectors } from "./egress_selector.ts";

const LOCAL_ADDRESSES = ["127.0.0.1", "::1"];

/**
 * Sees to it that `dir` holds a CA, and a server's and a client's certificate and key from it:
 * `ca.pem`, `ca.key`, `server.pem`, `server.key`, `client.pem`, `client.key`.
 *
 * What belongs together and is valid for another 30 days is kept as it is. Other certificates are
 * issued anew, valid for 365 days; if the CA itself cannot be kept, all of them.
 *
 * @param dir Created if missing. Default: the directory of this file.
 * @param options.agentNames further clients, each in files of its name
 * @throws {UsageError} If a name does not suit a file, or the CA's key is needed but not there.
 * @throws {Error} If the directory cannot be written, or another run holds it for too long.
 */
export function makeCerts(
  dir: string = import.meta.dirname ?? "certs",
  { agentNames = [], ...options }: KeepSetOptions & { agentNames?: readonly string[] } = {},
): Promise<KeptSet> {
  checkAgentNames(agentNames, ["client"]);
  return keepSet(dir, tunnelSet(agentNames), options);
}

/**
 * Sees to it that `dir` holds what kube-apiserver and a server with `--listen-tls` need of each
 * other, in the same files, from a CA of its own: an agent's certificate must not be a client's.
 * `egress-tls.yaml` and `egress-socket.yaml` configure kube-apiserver.
 *
 * @param server as kube-apiserver reaches it
 * @throws as {@linkcode makeCerts} does
 */
export async function makeEgressCerts(
  dir: string,
  server: Authority,
  options: KeepSetOptions = {},
): Promise<KeptSet> {
  const result = await keepSet(dir, egressSet(server.hostname), options);
  for (const [name, text] of Object.entries(egressSelectors(server))) {
    await replaceFile(dir, { name, text, mode: 0o644 });
  }
  return result;
}

/**
 * Writes a set into an empty folder: see {@linkcode writeSet}.
 *
 * @param options.agentNames further clients, each in files of its name
 */
export function writeCerts(
  dir: string,
  { agentNames, notAfter }: { agentNames?: readonly string[]; notAfter?: Date } = {},
): Promise<void> {
  return writeSet(dir, tunnelSet(agentNames), notAfter);
}

function tunnelSet(agentNames: readonly string[] = []): CertificateSet {
  return {
    caName: "quic-reverse-http-tunnel development CA",
    certificates: [
      {
        file: "server",
        commonName: "quic-tunnel-server",
        usage: "server",
        dnsNames: ["quic-tunnel-server", "localhost"],
        ipAddresses: LOCAL_ADDRESSES,
      },
      { ...agentCertificate("quic-tunnel-client"), file: "client" },
      ...agentNames.map(agentCertificate),
    ],
  };
}

function egressSet(host: string): CertificateSet {
  const ip = ipBytes(host);
  const unique = (names: string[]) => [...new Set(names)];
  return {
    caName: "quic-reverse-http-tunnel egress CA",
    certificates: [
      {
        file: "server",
        commonName: "proxy-server",
        usage: "server",
        dnsNames: unique(ip ? ["localhost"] : [host, "localhost"]),
        ipAddresses: unique([...(ip ? [formatIp(ip)] : []), ...LOCAL_ADDRESSES]),
      },
      {
        file: "client",
        commonName: "kube-apiserver",
        usage: "client",
        dnsNames: ["kube-apiserver"],
      },
    ],
  };
}

const HELP = `Creates certificates for server and agents if they are missing or unusable.

Usage: deno run --allow-read=certs --allow-write=certs certs/make.ts [options]

  --dir DIR           directory of the certificates (default: the directory of this program)
  --agent-name NAME   also NAME.pem and NAME.key, for an agent; may be repeated
  --egress HOST:PORT  also, in the folder egress, certificates and configuration for kube-apiserver
                      and the --listen-tls of proxy-server, which kube-apiserver reaches there
  --force             always create new ones, the CA too
  --quiet             print nothing if they are kept
  --help              show this help`;

/** Runs the command; the result is the exit code. */
async function main(args: string[]): Promise<number> {
  try {
    const options = parseCommandLine(args, {
      text: ["dir", "egress"],
      list: ["agent-name"],
      switches: ["force", "quiet"],
    });
    if (options.help) {
      console.log(HELP);
      return 0;
    }
    const server = options.egress === undefined ? undefined : parseAuthority(options.egress);
    const { force, dir, "agent-name": agentNames } = options;
    const report = ({ made, reason, dir }: KeptSet) => {
      if (made.length > 0) {
        const files = made.map((file) => `${file}.pem`).join(", ");
        console.log(`Created ${files} in ${dir}: ${reason}. Restart programs that use old ones.`);
      } else if (!options.quiet) console.log(`Kept the certificates in ${dir}: ${reason}.`);
    };
    const result = await makeCerts(dir, { force, agentNames });
    report(result);
    if (server) report(await makeEgressCerts(join(result.dir, "egress"), server, { force }));
    return 0;
  } catch (error) {
    console.error(messageOf(error));
    return error instanceof UsageError || error instanceof NotParsedError ? 2 : 1;
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
