// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- a command for the terminal, which logs nothing

/**
 * `deno task certs`: the certificates for trying the programs out on one machine.
 *
 * Every program's task runs this first, so several may run at the same moment. One at a time works
 * under an advisory lock of the operating system on `.lock.pem` (a name that `.gitignore` covers):
 * the lock goes with the process that held it, so it cannot be left behind, and the file stays
 * where it is, because removing it would let two processes lock two files of the same name. Whoever
 * comes second finds the first one's set and keeps it. A process that dies half-way leaves a mixed
 * set, which the next run notices and replaces.
 *
 * The CA's private key is never written: nobody can issue more certificates with it later.
 */

import { createPrivateKey, X509Certificate } from "node:crypto";
import { join } from "node:path";
import { delay } from "@std/async/delay";
import { messageOf, UsageError } from "../lib/errors.ts";
import { describeCertificate } from "../lib/tls/certificate.ts";
import { parseCommandLine } from "../tools/command_line.ts";
import { createCa, issueCertificate, type Issued } from "./issue.ts";

const SERVER_NAMES = ["quic-tunnel-server", "localhost"];
const SERVER_ADDRESSES = ["127.0.0.1", "::1"];
const DAY_MS = 24 * 60 * 60 * 1000;
/** A set with less than this left is replaced. */
const MIN_LEFT_MS = 7 * DAY_MS;
const LOCK_FILE = ".lock.pem";
const LOCK_RETRY_MS = 50;

/** What {@linkcode makeCerts} did. */
export interface MakeCertsResult {
  /** Whether the set was made anew, not kept. */
  readonly made: boolean;
  /** Why, in a few words. */
  readonly reason: string;
  readonly dir: string;
}

/** Options of {@linkcode makeCerts}. */
export interface MakeCertsOptions {
  /** Replaces a set that could be kept. @default false */
  readonly force?: boolean;
  /** How long another run may take, in milliseconds. @default 15000 */
  readonly lockTimeoutMs?: number;
  /** The time that existing certificates are judged at. @default now */
  readonly now?: Date;
}

/**
 * Sees to it that `dir` holds a CA certificate, and a server's and a client's certificate and key
 * from it: `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`.
 *
 * A set that belongs together and is valid for another 7 days is kept as it is; otherwise all of it
 * is made anew, valid for 365 days.
 *
 * @param dir Created if missing. Default: the directory of this file.
 * @throws {Error} If the directory cannot be written, or another run holds it for too long.
 */
export async function makeCerts(
  dir: string = import.meta.dirname ?? "certs",
  { force = false, lockTimeoutMs = 15_000, now = new Date() }: MakeCertsOptions = {},
): Promise<MakeCertsResult> {
  await Deno.mkdir(dir, { recursive: true });
  using _lock = await lock(join(dir, LOCK_FILE), lockTimeoutMs);
  const reason = force ? "requested with --force" : await reasonToReplace(dir, now);
  if (reason === undefined) {
    return { made: false, reason: "they match and are valid for at least 7 days", dir };
  }
  for (const { name, text, mode } of await issueSet()) await replace(dir, name, text, mode);
  return { made: true, reason, dir };
}

/**
 * Writes such a set into an empty directory, for which it takes no permission to read.
 *
 * @param notAfter the end of its validity, in 365 days by default
 */
export async function writeCerts(dir: string, notAfter?: Date): Promise<void> {
  for (const { name, text, mode } of await issueSet(notAfter)) {
    await Deno.writeTextFile(join(dir, name), text, { createNew: true, mode });
  }
}

interface CertificateFile {
  readonly name: string;
  readonly text: string;
  readonly mode: number;
}

async function issueSet(notAfter?: Date): Promise<CertificateFile[]> {
  const ca = await createCa({
    commonName: "quic-reverse-http-tunnel development CA",
    ...(notAfter && { notAfter }),
  });
  const server = await issueCertificate(ca, {
    commonName: SERVER_NAMES[0]!,
    usage: "server",
    dnsNames: SERVER_NAMES,
    ipAddresses: SERVER_ADDRESSES,
  });
  const client = await issueCertificate(ca, {
    commonName: "quic-tunnel-client",
    usage: "client",
    dnsNames: ["quic-tunnel-client"],
  });
  const pair = (name: string, { certPem, keyPem }: Issued) => [
    { name: `${name}.pem`, text: certPem, mode: 0o644 },
    { name: `${name}.key`, text: keyPem, mode: 0o600 },
  ];
  const caFile = { name: "ca.pem", text: ca.certPem, mode: 0o644 };
  return [caFile, ...pair("server", server), ...pair("client", client)];
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
async function replace(dir: string, name: string, text: string, mode: number): Promise<void> {
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

async function reasonToReplace(dir: string, now: Date): Promise<string | undefined> {
  let reading = "";
  const read = (name: string) => Deno.readTextFile(join(dir, reading = name));
  try {
    const ca = new X509Certificate(await read("ca.pem"));
    const unfit = unfitness("ca.pem", ca, now);
    if (unfit !== undefined) return unfit;
    for (const name of ["server", "client"]) {
      const certificate = new X509Certificate(await read(`${name}.pem`));
      const key = createPrivateKey(await read(`${name}.key`));
      if (!certificate.checkPrivateKey(key)) return `${name}.key is not the key of ${name}.pem`;
      // Reliable here, where all is P-256 and SHA-256; Deno's verify() is not for other kinds.
      if (!certificate.verify(ca.publicKey)) return `${name}.pem is not issued by the CA in ca.pem`;
      const unfit = unfitness(`${name}.pem`, certificate, now);
      if (unfit !== undefined) return unfit;
      if (name === "server") {
        const { names } = describeCertificate(certificate.raw);
        const missing = SERVER_NAMES.find((wanted) => !names.includes(wanted));
        if (missing !== undefined) return `server.pem is not for ${missing}`;
      }
    }
    return undefined;
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

const HELP = `Creates the development certificates if they are missing or unusable.

Usage: deno run --allow-read=certs --allow-write=certs certs/make.ts [options]

  --dir DIR   directory of the certificates (default: the directory of this program)
  --force     always create new ones
  --quiet     print nothing if they are kept
  --help      show this help`;

/** Runs the command; the result is the exit code. */
async function main(args: string[]): Promise<number> {
  try {
    const flags = { text: ["dir"], switches: ["force", "quiet"] } as const;
    const options = parseCommandLine(args, flags);
    if (options.help) {
      console.log(HELP);
      return 0;
    }
    const { made, reason, dir } = await makeCerts(options.dir, options);
    if (made) {
      console.log(
        `Created certificates in ${dir}: ${reason}. Restart programs that use the old ones.`,
      );
    } else if (!options.quiet) console.log(`Kept the certificates in ${dir}: ${reason}.`);
    return 0;
  } catch (error) {
    console.error(messageOf(error));
    return error instanceof UsageError ? 2 : 1;
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
