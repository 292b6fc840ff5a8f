// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * A folder with a CA and the certificates that it has issued. Several processes may work on one at
 * the same moment: one at a time does, under an advisory lock of the operating system on
 * `.lock.pem` (a name that `.gitignore` covers). The lock goes with the process that held it, so it
 * cannot be left behind, and the file stays where it is, because removing it would let two processes
 * lock two files of the same name. A process that dies half-way leaves a mixed set; the next run
 * issues anew what does not match.
 */
import { VALID_DAYS } from "./valid_days.ts";
import { createPrivateKey, X509Certificate } from "node:crypto";
import { join } from "node:path";
import { delay } from "@std/async/delay";
import { messageOf, UsageError } from "../errors.ts";
import { isIpAddress } from "../net/ip_address.ts";
import { describeCertificate, readCertificate } from "../tls/certificate.ts";
import {
  type CertificateOptions,
  createCa,
  issueCertificate,
  type Issued,
  readCa,
} from "./issue.ts";

const DAY_MS = 24 * 60 * 60 * 1000;
const CA_VALID_MS = 10 * 365 * DAY_MS;
/** A certificate with less than this left is replaced. */
const MIN_LEFT_DAYS = 30;
const LOCK_FILE = ".lock.pem";
const LOCK_RETRY_MS = 50;

/** What {@linkcode keepSet} did. */
export interface KeptSet {
  /** What was made anew, not kept: files without their ends, such as `server`. */
  readonly made: readonly string[];
  /** Why, in a few words. */
  readonly reason: string;
  readonly dir: string;
}

/** Options of {@linkcode keepSet}. */
export interface KeepSetOptions {
  /** Replaces a set that could be kept. @default false */
  readonly force?: boolean;
  /**
   * Whether a CA that cannot be kept is an error: all that it has issued would be worth nothing.
   *
   * @default {false}
   */
  readonly keepsCa?: boolean;
  /** How long another run may take, in milliseconds. @default 15000 */
  readonly lockTimeoutMs?: number;
  /** The time that existing certificates are judged at. @default now */
  readonly now?: Date;
  /** Is run once all files are in place, before another run may change any. @default {nothing} */
  readonly complete?: () => Promise<void>;
}

/** A CA and what it issues. */
export interface CertificateSet {
  readonly caName: string;
  readonly certificates: readonly WantedCertificate[];
  /** How long certificates are valid, but no longer than the CA. @default {365} */
  readonly validDays?: number;
}

/** A certificate of a set. */
export interface WantedCertificate extends CertificateOptions {
  /** It is in `${file}.pem`, its key in `${file}.key`. */
  readonly file: string;
  readonly dnsNames: readonly string[];
}

/**
 * Sees to it that a folder holds a CA, and certificates and keys from it: `ca.pem`, `ca.key`, and
 * for each certificate `${file}.pem` and `${file}.key`.
 *
 * What belongs together and is valid for another 30 days is kept as it is. Other certificates are
 * issued anew, with the names that they had, also those in the folder that the set does not name; if
 * the CA itself cannot be kept, all of the set.
 *
 * @param dir created if missing
 * @throws {UsageError} when the CA's key is needed but not there, or the CA cannot be kept and has
 * to be
 * @throws {Error} when the folder cannot be written, or another run holds it for too long
 */
export async function keepSet(
  dir: string,
  set: CertificateSet,
  options: KeepSetOptions = {},
): Promise<KeptSet> {
  await Deno.mkdir(dir, { recursive: true });
  using _lock = await lock(join(dir, LOCK_FILE), options.lockTimeoutMs ?? 15_000);
  const kept = await keepFiles(dir, set, options);
  await options.complete?.();
  return kept;
}

async function keepFiles(
  dir: string,
  { caName, certificates, validDays }: CertificateSet,
  { force = false, keepsCa = false, now = new Date() }: KeepSetOptions,
): Promise<KeptSet> {
  const write = async (ca: Issued, wanted: readonly WantedCertificate[]) => {
    for (const file of await issueFiles(ca, wanted, validDays)) await replaceFile(dir, file);
  };
  const caFault = force ? "requested with --force" : await faultOfCa(dir, now);
  if (caFault !== undefined && keepsCa && (await hasCa(dir))) {
    throw new UsageError(
      `${caFault}: put back the ca.pem and ca.key that belong together, or start anew in another folder`,
    );
  }
  if (caFault !== undefined) {
    const ca = await createCa({
      commonName: caName,
      notAfter: new Date(Date.now() + CA_VALID_MS),
    });
    // The key first: without it, a run that dies half-way could not be repaired.
    await replaceFile(dir, keyFile("ca", ca));
    await replaceFile(dir, certificateFile("ca", ca));
    await write(ca, certificates);
    return { made: ["ca", ...certificates.map(({ file }) => file)], reason: caFault, dir };
  }
  const all = [...certificates, ...await othersIn(dir, certificates)];
  const faults = await Promise.all(all.map((wanted) => faultOf(dir, wanted, now)));
  const faulty = all.filter((_, index) => faults[index] !== undefined);
  const reason = faults.filter((fault) => fault !== undefined).join(", ");
  if (faulty.length === 0) {
    return { made: [], reason: `they match and are valid for at least ${MIN_LEFT_DAYS} days`, dir };
  }
  const ca = await keptCa(dir, reason);
  await write(ca, await Promise.all(faulty.map((wanted) => withFormerNames(dir, wanted))));
  return { made: faulty.map(({ file }) => file), reason, dir };
}

/** Certificates of the folder's CA that a set does not name, as they are. */
async function othersIn(
  dir: string,
  certificates: readonly WantedCertificate[],
): Promise<WantedCertificate[]> {
  const known = new Set(["ca", ...certificates.map(({ file }) => file)]);
  const files = await Array.fromAsync(Deno.readDir(dir), ({ name }) => name);
  const others = files
    .filter((name) => name.endsWith(".pem") && files.includes(name.replace(/pem$/, "key")))
    .map((name) => name.slice(0, -".pem".length))
    .filter((file) => !known.has(file));
  const found = await Promise.all(others.map((file) => certificateIn(dir, file)));
  return found.filter((wanted) => wanted !== undefined);
}

/** What a certificate of the folder's CA was issued for; undefined if there is none. */
async function certificateIn(dir: string, file: string): Promise<WantedCertificate | undefined> {
  let found: WantedCertificate | undefined;
  await faultIn(dir, async (read) => {
    const ca = await readX509(read, "ca");
    const certificate = await readX509(read, file);
    if (!certificate.verify(ca.publicKey) || certificate.ca) return undefined;
    // Deno's X509Certificate has no extended key usage: its keyUsage is the other extension.
    const { info: { names, subject }, servesAsClient } = readCertificate(certificate.raw);
    const usage = servesAsClient ? "client" : "server";
    found = { file, usage, commonName: subject.replace(/^CN=/, ""), ...namesByKind(names) };
    return undefined;
  });
  return found;
}

/** The same certificate, with the names that the one before it has in addition. */
async function withFormerNames(dir: string, wanted: WantedCertificate): Promise<WantedCertificate> {
  const former = await certificateIn(dir, wanted.file);
  if (!former) return wanted;
  const both = (of: "dnsNames" | "ipAddresses" | "uris") => [
    ...new Set([...(wanted[of] ?? []), ...(former[of] ?? [])]),
  ];
  return {
    ...wanted,
    dnsNames: both("dnsNames"),
    ipAddresses: both("ipAddresses"),
    uris: both("uris"),
  };
}

/** Names of a certificate by their kind. */
export function namesByKind(
  names: readonly string[],
): Required<Pick<CertificateOptions, "dnsNames" | "ipAddresses" | "uris">> {
  const isIp = (name: string) => isIpAddress(name) !== 0;
  const isUri = (name: string) => name.includes("://");
  return {
    dnsNames: names.filter((name) => !isIp(name) && !isUri(name)),
    ipAddresses: names.filter(isIp),
    uris: names.filter(isUri),
  };
}

/** A file of a set. */
export interface CertificateFile {
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
  validDays = VALID_DAYS,
): Promise<CertificateFile[]> {
  const latest = ca.certificate.notAfter.getTime();
  const notAfter = new Date(Math.min(Date.now() + validDays * DAY_MS, latest));
  const pairs = certificates.map(async (wanted) => {
    const issued = await issueCertificate(ca, { notAfter, ...wanted });
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
        "Put it back, or start anew in another folder",
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
export async function replaceFile(
  dir: string,
  { name, text, mode }: CertificateFile,
): Promise<void> {
  // One fixed name is enough under the lock, and what a run that died left there goes away.
  const temporary = join(dir, `.new-${name}`);
  await removeIfThere(temporary);
  try {
    // `createNew`, so that the mode is in force from the first byte on and no link is followed.
    await Deno.writeTextFile(temporary, text, { createNew: true, mode });
    await Deno.rename(temporary, join(dir, name));
  } catch (error) {
    await removeIfThere(temporary).catch(() => {});
    throw error;
  }
}

async function removeIfThere(path: string): Promise<void> {
  try {
    await Deno.remove(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Whether a folder has a part of a CA. */
async function hasCa(dir: string): Promise<boolean> {
  const files = await Array.fromAsync(Deno.readDir(dir), ({ name }) => name);
  return files.includes("ca.pem") || files.includes("ca.key");
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
  if (validToDate.getTime() - now.getTime() < MIN_LEFT_DAYS * DAY_MS) {
    return now > validToDate
      ? `${file} has expired`
      : `${file} expires within ${MIN_LEFT_DAYS} days`;
  }
  return undefined;
}

/**
 * Writes a set without the CA's key into an empty folder, for which it takes no permission to read.
 *
 * @param notAfter the end of its validity, in 365 days by default
 */
export async function writeSet(
  dir: string,
  { caName, certificates }: CertificateSet,
  notAfter?: Date,
): Promise<void> {
  const ca = await createCa({ commonName: caName, ...(notAfter && { notAfter }) });
  const files = [certificateFile("ca", ca), ...await issueFiles(ca, certificates)];
  for (const { name, text, mode } of files) {
    await Deno.writeTextFile(join(dir, name), text, { createNew: true, mode });
  }
}
