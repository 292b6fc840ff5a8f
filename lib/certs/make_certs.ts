// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** `proxy-server --make-certs`: certificates for a server and its agents, without another program. */
import { join } from "node:path";
import { UsageError } from "../errors.ts";
import { type Authority, formatAuthority } from "../net/authority.ts";
import { formatBundle, formatBundleString } from "../tls/bundle.ts";
import { keepSet } from "./certificate_set.ts";
import { tunnelSet } from "./tunnel_set.ts";

export interface MakeCertsValues {
  /** Folder of the certificates; created if missing. */
  readonly makeCerts: string;
  /** Names and IP addresses of the server; agents get the first one in a bundle. */
  readonly certNames: readonly string[];
  /** Names of agents. @default {["agent"]} */
  readonly agentNames: readonly string[];
  readonly certDays: number;
  /** Where the agent's bundle is written; `-` prints it as a string. */
  readonly bundle?: string | undefined;
  /** Address of the server's listener, for its port. */
  readonly listenQuic: Authority;
}

/** The agent of a new set when none is named. */
const DEFAULT_AGENT = "agent";

type Write = (line: string) => void;

/**
 * Makes what is missing or expires soon, keeps the rest, and says how the programs use it.
 *
 * @param write takes each line of the report, without its end
 * @throws {UsageError} when a name is not valid, or the CA's key is needed but not there
 * @throws {Error} when a file cannot be written
 */
export async function makeCerts(values: MakeCertsValues, write: Write): Promise<void> {
  const { makeCerts: dir, certNames, certDays: validDays, bundle, listenQuic } = values;
  const agentNames = values.agentNames.length > 0 || await isThere(join(dir, "ca.pem"))
    ? values.agentNames
    : [DEFAULT_AGENT];
  const server = addressOf(certNames, listenQuic.port);
  if (bundle !== undefined && !server) {
    throw new UsageError("--bundle needs --cert-name, the name or IP address of the server");
  }
  if (bundle !== undefined && agentNames.length !== 1) {
    throw new UsageError("--bundle is for one agent: give one --agent-name");
  }
  const set = tunnelSet({ serverNames: certNames, agentNames, validDays });
  const { made, reason } = await keepSet(dir, set);
  write(
    made.length > 0
      ? `Created ${made.map((file) => `${file}.pem`).join(", ")} in ${dir}: ${reason}.`
      : `Kept the certificates in ${dir}: ${reason}.`,
  );
  if (made.includes("ca")) {
    write("ca.key signs certificates: whoever has it gets in. Keep it safe, and off the server.");
  }
  write("");
  write("On the server's machine, which needs server.pem, server.key and ca.pem:");
  write(
    `  proxy-server --listen-tcp=127.0.0.1:8443 --cert-file=${join(dir, "server.pem")} ` +
      `--cert-key=${join(dir, "server.key")} --client-ca-file=${join(dir, "ca.pem")}`,
  );
  if (bundle !== undefined) return await bundleAgent(dir, agentNames[0]!, server!, bundle, write);
  for (const name of agentNames) {
    write("");
    write(`On the machine of ${name}, which needs ca.pem, ${name}.pem and ${name}.key:`);
    write(
      `  proxy-agent --server=${server ? formatAuthority(server) : `SERVER:${listenQuic.port}`} ` +
        `--ca-file=${join(dir, "ca.pem")} --cert-file=${join(dir, `${name}.pem`)} ` +
        `--cert-key=${join(dir, `${name}.key`)}`,
    );
  }
}

async function bundleAgent(
  dir: string,
  name: string,
  server: Authority,
  path: string,
  write: Write,
): Promise<void> {
  const read = (file: string) => Deno.readTextFile(join(dir, file));
  const identity = await read(`${name}.pem`) + await read(`${name}.key`);
  const bundle = { server, identity, ca: await read("ca.pem") };
  write("");
  if (path === "-") {
    write(`On the machine of ${name}. The string is a secret, like the key in it:`);
    write(`  QRHT_JOIN=${formatBundleString(bundle)} proxy-agent`);
    return;
  }
  await writeSecret(path, formatBundle(bundle));
  write(`On the machine of ${name}, which needs ${path}, a secret, and nothing else:`);
  write(`  proxy-agent --join=${path}`);
}

async function isThere(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** Where agents reach the server, if a name of it is known. */
function addressOf([hostname]: readonly string[], port: number): Authority | undefined {
  return hostname === undefined ? undefined : { hostname, port };
}

/** Writes a file that nobody else may read, whatever was there before. */
async function writeSecret(path: string, text: string): Promise<void> {
  try {
    await Deno.remove(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  await Deno.writeTextFile(path, text, { createNew: true, mode: 0o600 });
}
