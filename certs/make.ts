// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- a command for the terminal, which logs nothing

/**
 * `deno task certs`: certificates for server and agents, and for kube-apiserver.
 *
 * Every program's task runs this first, so several may run at the same moment. One at a time works
 * under an advisory lock of the operating system on `.lock.pem` (a name that `.gitignore` covers):
 * the lock goes with the process that held it, so it cannot be left behind, and the file stays
 * where it is, because removing it would let two processes lock two files of the same name. Whoever
 * comes second finds the first one's set and keeps it. A process that dies half-way leaves a mixed
 * set; the next run issues anew what does not match.
 */

import { createPrivateKey, X509Certificate } from "node:crypto";
import { join } from "node:path";
import { delay } from "@std/async/delay";
import { messageOf, NotParsedError, UsageError } from "../lib/errors.ts";
import { type Authority, parseAuthority } from "../lib/net/authority.ts";
import { formatIp, ipBytes } from "../lib/net/ip_address.ts";
import { describeCertificate } from "../lib/tls/certificate.ts";
import { parseCommandLine } from "../tools/command_line.ts";
import { egressSelectors } from "./egress_selector.ts";
import {
  type CertificateOptions,
  createCa,
  issueCertificate,
  type Issued,
  readCa,
} from "./issue.ts";

const LOCAL_ADDRESSES = ["127.0.0.1", "::1"];
const DAY_MS = 24 * 60 * 60 * 1000;
const CA_VALID_MS = 10 * 365 * DAY_MS;
/** A certificate with less than this left is replaced. */
const MIN_LEFT_MS = 7 * DAY_MS;
const LOCK_FILE = ".lock.pem";
const LOCK_RETRY_MS = 50;

/** What {@linkcode makeCerts} did. */
export interface MakeCertsResult {
  /** What was made anew, not kept: files without their ends, such as `server`. */
  readonly made: readonly string[];
  /** Why, in a few words. */
  readonly reason: string;
  readonly dir: string;
}

/** Options of {@linkcode makeCerts} and {@linkcode makeEgressCerts}. */
export interface MakeCertsOptions {
  /** Replaces a set that could be kept. @default false */
  readonly force?: boolean;
  /** How long another run may take, in milliseconds. @default 15000 */
  readonly lockTimeoutMs?: number;
  /** The time that existing certificates are judged at. @default now */
  readonly now?: Date;
}

/** A CA and what it issues. */
interface CertificateSet {
  readonly caName: string;
  readonly certificates: readonly WantedCertificate[];
}

interface WantedCertificate extends CertificateOptions {
  /** It is in `${file}.pem`, its key in `${file}.key`. */
  readonly file: string;
  readonly dnsNames: readonly string[];
}

/**
 * Sees to it that `dir` holds a CA, and a server's and a client's certificate and key from it:
 * `ca.pem`, `ca.key`, `server.pem`, `server.key`, `client.pem`, `client.key`.
 *
 * What belongs together and is valid for another 7 days is kept as it is. Other certificates are
 * issued anew, valid for 365 days; if the CA itself cannot be kept, all of them.
 *
 * @param dir Created if missing. Default: the directory of this file.
 * @param options.agentNames further clients, each in files of its name
 * @throws {UsageError} If a name does not suit a file, or the CA's key is needed but not there.
 * @throws {Error} If the directory cannot be written, or another run holds it for too long.
 */
export function makeCerts(
  dir: string = import.meta.dirname ?? "certs",
  { agentNames = [], ...options }: MakeCertsOptions & { agentNames?: readonly string[] } = {},
): Promise<MakeCertsResult> {
  for (const name of agentNames) {
    if (!/^[A-Za-z0-9][\w.-]*$/.test(name) || ["ca", "server", "client"].includes(name)) {
      throw new UsageError(`--agent-name ${JSON.stringify(name)} cannot be the name of a file`);
    }
  }
  return makeSet(dir, tunnelSet(agentNames), options);
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
  options: MakeCertsOptions = {},
): Promise<MakeCertsResult> {
  const result = await makeSet(dir, egressSet(server.hostname), options);
  for (const [name, text] of Object.entries(egressSelectors(server))) {
    await replace(dir, { name, text, mode: 0o644 });
  }
  return result;
}

/**
 * Writes a set without the CA's key into an empty directory, for which it takes no permission to
 * read.
 *
 * @param notAfter the end of its validity, in 365 days by default
 */
export async function writeCerts(dir: string, notAfter?: Date): Promise<void> {
  const { caName, certificates } = tunnelSet();
  const ca = await createCa({ commonName: caName, ...(notAfter && { notAfter }) });
  const files = [certificateFile("ca", ca), ...await issueFiles(ca, certificates)];
  for (const { name, text, mode } of files) {
    await Deno.writeTextFile(join(dir, name), text, { createNew: true, mode });
  }
}

function tunnelSet(agentNames: readonly string[] = []): CertificateSet {
  const client = (file: string, commonName: string) =>
    ({ file, commonName, usage: "client", dnsNames: [commonName] }) as const;
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
      client("client", "quic-tunnel-client"),
      ...agentNames.map((name) => client(name, name)),
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

async function makeSet(
  dir: string,
  { caName, certificates }: CertificateSet,
  { force = false, lockTimeoutMs = 15_000, now = new Date() }: MakeCertsOptions,
): Promise<MakeCertsResult> {
  await Deno.mkdir(dir, { recursive: true });
  using _lock = await lock(join(dir, LOCK_FILE), lockTimeoutMs);
  const write = async (files: readonly CertificateFile[]) => {
    for (const file of files) await replace(dir, file);
  };
  const caFault = force ? "requested with --force" : await faultOfCa(dir, now);
  if (caFault !== undefined) {
    const ca = await createCa({
      commonName: caName,
      notAfter: new Date(Date.now() + CA_VALID_MS),
    });
    // The key first: without it, a run that dies half-way could not be repaired.
    await write([keyFile("ca", ca), certificateFile("ca", ca)]);
    await write(await issueFiles(ca, certificates));
    return { made: ["ca", ...certificates.map(({ file }) => file)], reason: caFault, dir };
  }
  const faults = await Promise.all(certificates.map((wanted) => faultOf(dir, wanted, now)));
  const faulty = certificates.filter((_, index) => faults[index] !== undefined);
  const reason = faults.filter((fault) => fault !== undefined).join(", ");
  if (faulty.length === 0) {
    return { made: [], reason: "they match and are valid for at least 7 days", dir };
  }
  const ca = await keptCa(dir, reason);
  await write(await issueFiles(ca, faulty));
  return { made: faulty.map(({ file }) => file), reason, dir };
}

interface CertificateFile {
  readonly name: string;
  readonly text: string;
  readonly mode: number;
}

const certificateFile = (name: string, { certPem }: Issued): CertificateFile => ({
  name: `${name}.pem`,
  text: certPem,
  mode: 0o644,
});

const keyFile = (name: string, { keyPem }: Issued): CertificateFile => ({
  name: `${name}.key`,
  text: keyPem,
  mode: 0o600,
});

async function issueFiles(
  ca: Issued,
  certificates: readonly WantedCertificate[],
): Promise<CertificateFile[]> {
  const pairs = certificates.map(async (wanted) => {
    const issued = await issueCertificate(ca, wanted);
    return [certificateFile(wanted.file, issued), keyFile(wanted.file, issued)];
  });
  return (await Promise.all(pairs)).flat();
}

/** @throws {UsageError} when its key is not there, or cannot be used */
async function keptCa(dir: string, reason: string): Promise<Issued> {
  const read = (name: string) => Deno.readTextFile(join(dir, name));
  try {
    return await readCa(await read("ca.pem"), await read("ca.key"));
  } catch (error) {
    const fault = error instanceof Deno.errors.NotFound ? "it is missing" : messageOf(error);
    throw new UsageError(
      `${reason}; ca.key in ${dir} cannot be used to issue a new one: ${fault}. ` +
        "Put it back, or replace all of them, the CA too, with --force",
    );
  }
}

/** Locks by polling: a blocking wait for the lock could not be given up. */
async function lock(path: string, timeoutMs: number): Promise<Disposable> {
  const file = await Deno.open(path, { create: true, write: true });
  try {
    const deadline = Date.now() + timeoutMs;
    while (!await file.tryLock(true)) {
      if (Date.now() >= deadline) {
        throw new Error(`cannot lock "${path}": another run has held it for ${timeoutMs} ms`);
      }
      await delay(LOCK_RETRY_MS);
    }
    return file; // closing it unlocks it
  } catch (error) {
    file.close();
    throw error;
  }
}

/** Puts a file in place with one rename: nobody ever reads half of it. */
async function replace(dir: string, { name, text, mode }: CertificateFile): Promise<void> {
  // One fixed name is enough under the lock, and what a run that died left there goes away.
  const temporary = join(dir, `.new-${name}`);
  await removeIfThere(temporary);
  // `createNew`, so that the mode is in force from the first byte on and no link is followed.
  await Deno.writeTextFile(temporary, text, { createNew: true, mode });
  await Deno.rename(temporary, join(dir, name));
}

async function removeIfThere(path: string): Promise<void> {
  try {
    await Deno.remove(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Why the CA of a set cannot be kept. */
function faultOfCa(dir: string, now: Date): Promise<string | undefined> {
  return faultIn(dir, async (read) => unfitness("ca.pem", await readX509(read, "ca"), now));
}

/** Why a certificate of a set, or its key, cannot be kept. */
function faultOf(
  dir: string,
  { file, dnsNames, ipAddresses = [] }: WantedCertificate,
  now: Date,
): Promise<string | undefined> {
  return faultIn(dir, async (read) => {
    const ca = await readX509(read, "ca");
    const certificate = await readX509(read, file);
    const key = createPrivateKey(await read(`${file}.key`));
    if (!certificate.checkPrivateKey(key)) return `${file}.key is not the key of ${file}.pem`;
    // Reliable here, where all is P-256 and SHA-256; Deno's verify() is not for other kinds.
    if (!certificate.verify(ca.publicKey)) return `${file}.pem is not issued by the CA in ca.pem`;
    const unfit = unfitness(`${file}.pem`, certificate, now);
    if (unfit !== undefined) return unfit;
    const { names } = describeCertificate(certificate.raw);
    const missing = [...dnsNames, ...ipAddresses].find((wanted) => !names.includes(wanted));
    return missing && `${file}.pem is not for ${missing}`;
  });
}

type Read = (name: string) => Promise<string>;

const readX509 = async (read: Read, file: string) => new X509Certificate(await read(`${file}.pem`));

/** What `judge` says, or which of the files that it reads is missing or invalid. */
async function faultIn(
  dir: string,
  judge: (read: Read) => Promise<string | undefined>,
): Promise<string | undefined> {
  let reading = "";
  try {
    return await judge((name) => Deno.readTextFile(join(dir, reading = name)));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return `${reading} is missing`;
    // Not being allowed to look is no reason to replace anything.
    if (error instanceof Deno.errors.PermissionDenied) throw error;
    if (error instanceof Deno.errors.NotCapable) throw error;
    return `${reading} is invalid`;
  }
}

function unfitness(
  file: string,
  { validFromDate, validToDate }: X509Certificate,
  now: Date,
): string | undefined {
  if (now < validFromDate) return `${file} is not valid yet`;
  if (validToDate.getTime() - now.getTime() < MIN_LEFT_MS) {
    return now > validToDate ? `${file} has expired` : `${file} expires within 7 days`;
  }
  return undefined;
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
    const report = ({ made, reason, dir }: MakeCertsResult) => {
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
