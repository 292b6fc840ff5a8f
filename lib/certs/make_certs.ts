// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** `proxy-server --make-certs`: certificates for a server and its agents, without another program. */
import { basename, dirname, join } from "node:path";
import { UsageError } from "../errors.ts";
import { type Authority, formatAuthority } from "../net/authority.ts";
import { quote, shellWord } from "../printable.ts";
import { type Bundle, formatBundle, formatBundleString, parseBundle } from "../tls/bundle.ts";
import { keepSet, replaceFile } from "./certificate_set.ts";
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
  const isFile = bundle !== undefined && bundle !== "-";
  if (isFile) await expectBundle(bundle);
  let bundled: Bundle | undefined;
  const complete = async () => {
    if (bundle === undefined) return;
    bundled = await bundleOf(dir, agentNames[0]!, server!);
    if (isFile) await writeSecret(bundle, formatBundle(bundled));
  };
  const { made, reason } = await keepSet(dir, set, { complete, keepsCa: true });
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
  write(commandLine("proxy-server", {
    "listen-tcp": "127.0.0.1:8443",
    "cert-file": join(dir, "server.pem"),
    "cert-key": join(dir, "server.key"),
    "client-ca-file": join(dir, "ca.pem"),
  }));
  if (bundled) return describeBundle(bundled, agentNames[0]!, bundle!, write);
  for (const name of agentNames) {
    write("");
    write(`On the machine of ${name}, which needs ca.pem, ${name}.pem and ${name}.key:`);
    write(commandLine("proxy-agent", {
      server: server ? formatAuthority(server) : `SERVER:${listenQuic.port}`,
      "ca-file": join(dir, "ca.pem"),
      "cert-file": join(dir, `${name}.pem`),
      "cert-key": join(dir, `${name}.key`),
    }));
  }
}

function commandLine(program: string, flags: Readonly<Record<string, string>>): string {
  const words = Object.entries(flags).map(([flag, value]) => shellWord(`--${flag}=${value}`));
  return `  ${[program, ...words].join(" ")}`;
}

async function bundleOf(dir: string, name: string, server: Authority): Promise<Bundle> {
  const read = (file: string) => Deno.readTextFile(join(dir, file));
  const identity = await read(`${name}.pem`) + await read(`${name}.key`);
  return { server, identity, ca: await read("ca.pem") };
}

function describeBundle(bundle: Bundle, name: string, path: string, write: Write): void {
  write("");
  if (path === "-") {
    write(`On the machine of ${name}. The string is a secret, like the key in it:`);
    write(`  QRHT_JOIN=${formatBundleString(bundle)} proxy-agent`);
    return;
  }
  write(`On the machine of ${name}, which needs ${path}, a secret, and nothing else:`);
  write(commandLine("proxy-agent", { join: path }));
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

/**
 * Checks that a bundle may be written to a path: there is none, or a file with a bundle.
 *
 * @throws {UsageError} when something else is there
 */
async function expectBundle(path: string): Promise<void> {
  try {
    const { isFile, size } = await Deno.lstat(path);
    if (isFile && size === 0) return;
    // A symbolic link, or a device, would be replaced as well.
    if (isFile) return void parseBundle(await Deno.readTextFile(path));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    if (!(error instanceof UsageError)) throw error;
  }
  throw new UsageError(`--bundle ${quote(path)} is there, is no bundle, and is left alone`);
}

/** Replaces a file by one that nobody else may read, whatever was there before. */
async function writeSecret(path: string, text: string): Promise<void> {
  await replaceFile(dirname(path), { name: basename(path), text, mode: 0o600 });
}
