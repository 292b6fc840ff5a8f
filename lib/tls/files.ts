// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The TLS files of a program, read and checked as a whole. */

import { Buffer } from "node:buffer";
import { createPrivateKey } from "node:crypto";
import type { KeyObject } from "node:crypto";
import {
  belongsTo,
  type Certificate,
  type CertificateInfo,
  isSelfIssued,
  readCertificate,
} from "./certificate.ts";
import { oneLine, quote } from "../printable.ts";
import { messageOf, UsageError } from "../errors.ts";
import { checkIdentity, NativeLibraryError } from "../quic/mod.ts";
import { invalidity } from "./faults.ts";
import { decodeBlock, type PemBlock, pemBlocks, toPem } from "./pem.ts";

/** Far more than any real bundle of CAs needs: the system's own has a fifth of it. */
const MAX_FILE_BYTES = 1024 * 1024;

const EC_CURVES: readonly unknown[] = ["prime256v1", "secp384r1", "secp521r1"];

/** What the TLS layer needs, all in PEM. Printed or turned into JSON, it shows `info` only. */
export interface TlsMaterial {
  /** The CA certificates that peers are verified with. */
  readonly ca: Uint8Array;
  /** The own certificate, followed by the intermediates of its file. */
  readonly cert: Uint8Array;
  readonly key: Uint8Array;
  /** The own certificate. */
  readonly leaf: Certificate;
  /** About the own certificate. */
  readonly info: CertificateInfo;
  /** All certificates: the own one first, then intermediates, then CA certificates. */
  readonly certificates: readonly FileCertificate[];
}

/** A certificate, and the flag that named its file. */
export interface FileCertificate {
  readonly flag: string;
  readonly info: CertificateInfo;
}

/** Where {@linkcode readTlsFiles} reads from. */
export interface TlsFiles {
  readonly caFile: string;
  /** The flag that named `caFile`, for messages: `--ca-file` or `--client-ca-file`. */
  readonly caFlag: string;
  /** May hold a chain, leaf first, and the private key as well. */
  readonly certFile: string;
  readonly keyFile: string;
}

class LoadedTlsMaterial implements TlsMaterial {
  // Not a property: it stays out of JSON, of inspection and of copies by spreading.
  readonly #key: Uint8Array;

  constructor(
    readonly ca: Uint8Array,
    readonly cert: Uint8Array,
    key: Uint8Array,
    readonly leaf: Certificate,
    readonly certificates: readonly FileCertificate[],
  ) {
    this.#key = key;
  }

  get info(): CertificateInfo {
    return this.leaf.info;
  }

  get key(): Uint8Array {
    return this.#key;
  }

  toJSON(): { info: CertificateInfo } {
    return { info: this.info };
  }

  [Symbol.for("Deno.customInspect")](inspect: typeof Deno.inspect, options: Deno.InspectOptions) {
    return `TlsMaterial ${inspect(this.toJSON(), options)}`;
  }

  [Symbol.for("nodejs.util.inspect.custom")](): { info: CertificateInfo } {
    return this.toJSON();
  }
}

/** What was in the files of a program. */
export interface TlsFileContents {
  readonly ca: FileContent;
  readonly cert: FileContent;
  readonly key: FileContent;
}

interface FileContent {
  readonly flag: string;
  readonly path: string;
  readonly bytes: Uint8Array;
  /** Whether it can be read again; a pipe cannot. */
  readonly isFile: boolean;
}

/**
 * Reads the files of a program, each up to 1 MiB.
 *
 * @param before the previous contents; what was no regular file then, such as a pipe, is not read
 * @throws {UsageError} when one cannot be read: one line that names its flag and path
 */
export async function readTlsFiles(
  files: TlsFiles,
  before?: TlsFileContents,
): Promise<TlsFileContents> {
  const ca = await readFile(files.caFlag, files.caFile, before?.ca);
  const cert = await readFile("--cert-file", files.certFile, before?.cert);
  const key = files.keyFile === files.certFile
    ? { ...cert, flag: "--cert-key" } // a pipe can be read only once
    : await readFile("--cert-key", files.keyFile, before?.key);
  return { ca, cert, key };
}

/**
 * Checks the PEM files of a program before use, and has the TLS library load them.
 *
 * Keys may be PKCS#8, SEC1 (`EC PRIVATE KEY`) or PKCS#1 (`RSA PRIVATE KEY`), unencrypted; RSA,
 * ECDSA on P-256, P-384 or P-521, or Ed25519. Of the own chain only the first certificate must be
 * within its validity; of the CA certificates, one.
 *
 * @param options.now the time that the validity is checked at. @default {the current time}
 * @throws {UsageError} when they cannot be used: one line with flag and path
 * @throws {NativeLibraryError} when none can be made at all
 */
export function checkTlsFiles(
  contents: TlsFileContents,
  { now = new Date() }: { readonly now?: Date } = {},
): TlsMaterial {
  const [caFile, certFile, keyFile] = [contents.ca, contents.cert, contents.key].map(
    pemFile,
  ) as [PemFile, PemFile, PemFile];
  const anchors = certificatesOf(caFile);
  checkAnchors(anchors, caFile, now);
  const chain = certificatesOf(certFile);
  const key = privateKeyOf(keyFile);
  checkOwner(key.object, keyFile, chain, certFile);
  checkLeaf(chain[0]!, certFile, now);
  // Encoded again, so that BoringSSL only gets what was checked here.
  const material = new LoadedTlsMaterial(
    certificatesToPem(anchors),
    certificatesToPem(chain),
    toPem(key.label, key.der),
    chain[0]!,
    [
      ...chain.map(({ info }) => ({ flag: certFile.flag, info })),
      ...anchors.map(({ info }) => ({ flag: caFile.flag, info })),
    ],
  );
  tryOut(material, certFile, caFile);
  return material;
}

function checkAnchors(anchors: readonly Certificate[], file: PemFile, now: Date): void {
  if (!anchors.some((anchor) => invalidity(anchor.info, now) === undefined)) {
    const fault = invalidity(anchors[0]!.info, now);
    throw new UsageError(
      anchors.length === 1
        ? `the CA certificate in ${place(file)} ${fault}`
        : `no CA certificate in ${place(file)} is valid now; the first ${fault}`,
    );
  }
  if (!anchors.some(isSelfIssued)) {
    // BoringSSL ends a chain only at a root; with an intermediate alone it rejects every peer.
    const subject = quote(anchors[0]!.info.subject);
    throw new UsageError(`${place(file)} contains ${subject} but not the root CA that issued it`);
  }
}

/** The key has to be the first certificate's. */
function checkOwner(
  key: KeyObject,
  keyFile: PemFile,
  chain: readonly Certificate[],
  certFile: PemFile,
): void {
  const owner = chain.findIndex((certificate) => belongsTo(key, certificate));
  if (owner === 0) return;
  throw new UsageError(
    owner < 0
      ? `${place(keyFile)} does not match the certificate in ${place(certFile)}`
      : `${place(keyFile)} matches certificate ${owner + 1} in ${place(certFile)}, ` +
        "which must come first",
  );
}

function checkLeaf({ info, signs }: Certificate, file: PemFile, now: Date): void {
  const invalid = invalidity(info, now);
  if (invalid !== undefined) {
    const fix = now > info.notAfter ? "; renew it" : "";
    throw new UsageError(`the certificate in ${place(file)} ${invalid}${fix}`);
  }
  if (!signs) {
    const fault = "may not be used for TLS 1.3: its key usage lacks digitalSignature";
    throw new UsageError(`the certificate in ${place(file)} ${fault}`);
  }
}

function tryOut(material: TlsMaterial, certFile: PemFile, caFile: PemFile): void {
  try {
    checkIdentity(material);
  } catch (error) {
    if (error instanceof NativeLibraryError) throw error;
    const refused = `${place(certFile)} with its key, or ${place(caFile)}`;
    throw new UsageError(oneLine(`the TLS library rejects ${refused}: ${messageOf(error)}`));
  }
}

interface PemFile {
  readonly flag: string;
  readonly path: string;
  readonly blocks: PemBlock[];
  readonly looksLikeDer: boolean;
}

function place({ flag, path }: { flag: string; path: string }): string {
  return `${flag} ${quote(path)}`;
}

async function readFile(flag: string, path: string, before?: FileContent): Promise<FileContent> {
  if (before && !before.isFile) return before;
  try {
    // What has become a pipe must not be opened: that would wait for a writer.
    if (before && !(await Deno.stat(path)).isFile) throw new TypeError("no longer a regular file");
    return { flag, path, ...await readBounded(path) };
  } catch (error) {
    throw new UsageError(`cannot read ${place({ flag, path })}: ${fileFault(error)}`);
  }
}

function pemFile({ flag, path, bytes }: FileContent): PemFile {
  const looksLikeDer = bytes[0] === 0x30 && bytes[1]! >= 0x80;
  try {
    const blocks = looksLikeDer ? [] : pemBlocks(new TextDecoder().decode(bytes));
    return { flag, path, blocks, looksLikeDer };
  } catch (error) {
    throw new UsageError(`cannot read ${place({ flag, path })}: ${messageOf(error)}`);
  }
}

async function readBounded(path: string): Promise<{ bytes: Uint8Array; isFile: boolean }> {
  using file = await Deno.open(path);
  const { isFile } = await file.stat();
  // Not by the size in stat(): a pipe has none, and a secret may well come through one.
  const buffer = new Uint8Array(MAX_FILE_BYTES + 1);
  let length = 0;
  while (length < buffer.length) {
    const count = await file.read(buffer.subarray(length));
    if (count === null) return { bytes: buffer.slice(0, length), isFile };
    length += count;
  }
  throw new RangeError("larger than 1 MiB");
}

function fileFault(error: unknown): string {
  if (error instanceof Deno.errors.NotCapable) {
    return "Deno lacks the permission --allow-read for it";
  }
  const fault = oneLine(messageOf(error).replace(/ \(os error \d+\).*$/s, ""));
  return error instanceof Deno.errors.PermissionDenied
    ? `${fault}; the user that runs this program needs read access`
    : fault;
}

function certificatesToPem(certificates: Certificate[]): Uint8Array {
  return Uint8Array.from(
    Buffer.concat(certificates.map(({ der }) => toPem("CERTIFICATE", der))),
  );
}

function certificatesOf(file: PemFile): Certificate[] {
  const blocks = file.blocks.filter((block) => block.label === "CERTIFICATE");
  if (blocks.length === 0) throw new UsageError(nothingIn(file, "certificate"));
  return blocks.map((block) => {
    try {
      return readCertificate(decodeBlock(block));
    } catch (error) {
      const where = `the certificate in line ${block.line} of ${place(file)}`;
      throw new UsageError(`${where} cannot be read: ${oneLine(messageOf(error))}`);
    }
  });
}

function privateKeyOf(file: PemFile): { label: string; der: Uint8Array; object: KeyObject } {
  const block = file.blocks.find((block) => block.label.endsWith("PRIVATE KEY"));
  if (block === undefined) throw new UsageError(nothingIn(file, "private key"));
  const { label } = block;
  if (block.encrypted || label === "ENCRYPTED PRIVATE KEY") {
    throw new UsageError(`the private key in ${place(file)} is encrypted, which is not supported`);
  }
  const types = { "PRIVATE KEY": "pkcs8", "EC PRIVATE KEY": "sec1", "RSA PRIVATE KEY": "pkcs1" };
  const type = Object.entries(types).find(([known]) => known === label)?.[1];
  if (type === undefined) {
    throw new UsageError(`the private key in ${place(file)} has an unsupported type: ${label}`);
  }
  let der: Uint8Array;
  let object: KeyObject;
  try {
    der = decodeBlock(block);
    object = createPrivateKey({
      key: Buffer.from(der),
      format: "der",
      type: type as "pkcs8" | "sec1" | "pkcs1",
    });
  } catch {
    // The cause is left out: it may quote the key.
    throw new UsageError(`the private key in ${place(file)} cannot be read`);
  }
  const kind = object.asymmetricKeyType;
  const curve = object.asymmetricKeyDetails?.namedCurve;
  const supported = kind === "rsa" || kind === "ed25519" ||
    (kind === "ec" && EC_CURVES.includes(curve));
  if (!supported) {
    const what = kind === "ec" ? `ec on ${curve}` : kind;
    throw new UsageError(`the private key in ${place(file)} has an unsupported type: ${what}`);
  }
  return { label, der, object };
}

function nothingIn(file: PemFile, what: string): string {
  const hint = file.looksLikeDer
    ? "it looks like DER: convert it to PEM"
    : file.blocks.length === 0
    ? "it is not a PEM file"
    : `it contains ${[...new Set(file.blocks.map((block) => block.label))].slice(0, 5).join(", ")}`;
  return `no ${what} in ${place(file)}: ${hint}`;
}
