// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What the TLS layer gets: certificates and key of a program, checked as a whole. */

import { Buffer } from "node:buffer";
import { createPrivateKey } from "node:crypto";
import type { KeyObject } from "node:crypto";
import { messageOf, UsageError } from "../errors.ts";
import { oneLine, quote } from "../printable.ts";
import { checkIdentity, NativeLibraryError, type TlsIdentity } from "../quic/mod.ts";
import { type Anchor, anchorsAt, anchorsFor } from "./anchors.ts";
import {
  belongsTo,
  type Certificate,
  type CertificateInfo,
  isAnchor,
  readCertificate,
} from "./certificate.ts";
import { invalidity } from "./faults.ts";
import { type FileContent, place, type TlsFileContents } from "./files.ts";
import { decodeBlock, type PemBlock, pemBlocks, toPem } from "./pem.ts";

/** Certificates of a peer's chain that are looked at. */
const MAX_CHAIN = 10;

const EC_CURVES: readonly unknown[] = ["prime256v1", "secp384r1", "secp521r1"];

/** What the TLS layer needs, all in PEM. Printed or turned into JSON, it shows `info` only. */
export interface TlsMaterial extends TlsIdentity {
  /** The CA certificates that peers are verified with: those that are valid. */
  readonly ca: Uint8Array;
  /** The own certificate, followed by the valid intermediates of its file. */
  readonly cert: Uint8Array;
  readonly key: Uint8Array;
  readonly leftOutCa: Uint8Array;
  /** The own certificate. */
  readonly leaf: Certificate;
  /** About the own certificate. */
  readonly info: CertificateInfo;
  /** All certificates: the own one first, then intermediates, then CA certificates. */
  readonly certificates: readonly FileCertificate[];
  /** Those of them that the TLS layer does not get, because they are not valid now. */
  readonly leftOut: readonly FileCertificate[];
  /** When another one of them than the own certificate becomes valid, or stops to be. */
  readonly changesAt: Date | undefined;
  /**
   * The same, for a peer whose chain failed, with the CA certificates in the order that suits it.
   *
   * @param chain DER, leaf first
   * @returns undefined when no order does
   */
  trusting(chain: readonly Uint8Array[]): TlsMaterial | undefined;
}

/** A certificate, and the flag that named its file. */
export interface FileCertificate {
  readonly flag: string;
  readonly info: CertificateInfo;
}

class LoadedTlsMaterial implements TlsMaterial {
  // Not a property: it stays out of JSON, of inspection and of copies by spreading.
  readonly #key: Uint8Array;
  readonly #anchors: readonly Anchor[];
  /** By the anchor that comes first. */
  readonly #reordered = new Map<Anchor, TlsMaterial>();
  readonly ca: Uint8Array;

  constructor(
    anchors: readonly Anchor[],
    readonly cert: Uint8Array,
    key: Uint8Array,
    readonly leftOutCa: Uint8Array,
    readonly leaf: Certificate,
    readonly certificates: readonly FileCertificate[],
    readonly leftOut: readonly FileCertificate[],
    readonly changesAt: Date | undefined,
  ) {
    this.#anchors = anchors;
    this.#key = key;
    this.ca = certificatesToPem(anchors);
  }

  trusting(chain: readonly Uint8Array[]): TlsMaterial | undefined {
    const anchors = anchorsFor(readChain(chain), this.#anchors);
    if (!anchors || anchors === this.#anchors) return anchors && this;
    const first = anchors[0]!;
    let material = this.#reordered.get(first);
    if (!material) {
      const { cert, key, leftOutCa, leaf, certificates, leftOut, changesAt } = this;
      material = new LoadedTlsMaterial(
        anchors,
        cert,
        key,
        leftOutCa,
        leaf,
        certificates,
        leftOut,
        changesAt,
      );
      this.#reordered.set(first, material);
    }
    return material;
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

/** Has a TLS library load certificates and key. Throws when it cannot. */
export type TryOut = (identity: TlsIdentity) => void;

/**
 * Checks the PEM files of a program before use, and has the TLS library load them.
 *
 * Keys may be PKCS#8, SEC1 (`EC PRIVATE KEY`) or PKCS#1 (`RSA PRIVATE KEY`), unencrypted; RSA,
 * ECDSA on P-256, P-384 or P-521, or Ed25519. Of the own chain only the first certificate must be
 * within its validity; of the CA certificates, one. Others that are
 * not valid are left out.
 *
 * @param options.now the time that the validity is checked at. @default {the current time}
 * @param options.tryOut has the TLS library load them; throws if it cannot. @default {that of QUIC}
 * @throws {UsageError} when they cannot be used: one line with flag and path
 * @throws {NativeLibraryError} when none can be made at all
 */
export function checkTlsFiles(
  contents: TlsFileContents,
  { now = new Date(), tryOut = checkIdentity }: {
    readonly now?: Date;
    readonly tryOut?: TryOut | undefined;
  } = {},
): TlsMaterial {
  const [caFile, certFile, keyFile] = [contents.ca, contents.cert, contents.key].map(
    pemFile,
  ) as [PemFile, PemFile, PemFile];
  const cas = certificatesOf(caFile);
  checkAnchors(cas, caFile, now);
  const chain = certificatesOf(certFile);
  const key = privateKeyOf(keyFile);
  checkOwner(key.object, keyFile, chain, certFile);
  checkLeaf(chain[0]!, certFile, now);
  const isInvalid = ({ info }: { info: CertificateInfo }) => invalidity(info, now) !== undefined;
  const certificates = [
    ...chain.map(({ info }) => ({ flag: certFile.flag, info })),
    ...cas.map(({ info }) => ({ flag: caFile.flag, info })),
  ];
  // Encoded again, so that BoringSSL only gets what was checked here.
  const material = new LoadedTlsMaterial(
    anchorsAt(cas, now),
    certificatesToPem(chain.filter((certificate) => !isInvalid(certificate))),
    toPem(key.label, key.der),
    certificatesToPem(cas.filter(isInvalid)),
    chain[0]!,
    certificates,
    certificates.filter(isInvalid),
    nextChange(certificates.slice(1), now),
  );
  tryOutMaterial(material, tryOut, certFile, caFile);
  return material;
}

/** When the validity of one of them begins or ends next. */
function nextChange(certificates: readonly FileCertificate[], now: Date): Date | undefined {
  const next = certificates
    .flatMap(({ info }) => [info.notBefore.getTime(), info.notAfter.getTime() + 1])
    .filter((time) => time > now.getTime());
  return next.length > 0 ? new Date(next.reduce((a, b) => Math.min(a, b))) : undefined;
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
  if (!anchors.some(isAnchor)) {
    // BoringSSL ends a chain only at a CA.
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

function tryOutMaterial(
  material: TlsMaterial,
  tryOut: TryOut,
  certFile: PemFile,
  caFile: PemFile,
): void {
  try {
    tryOut(material);
  } catch (error) {
    if (error instanceof NativeLibraryError) throw error;
    const refused = `${place(certFile)} with its key, or ${place(caFile)}`;
    throw new UsageError(oneLine(`the TLS library rejects ${refused}: ${messageOf(error)}`));
  }
}

interface PemFile extends Pick<FileContent, "flag" | "givenWith" | "path"> {
  readonly blocks: PemBlock[];
  readonly looksLikeDer: boolean;
}

function pemFile({ flag, givenWith, path, bytes }: FileContent): PemFile {
  const looksLikeDer = bytes[0] === 0x30 && bytes[1]! >= 0x80;
  try {
    const blocks = looksLikeDer ? [] : pemBlocks(new TextDecoder().decode(bytes));
    return { flag, givenWith, path, blocks, looksLikeDer };
  } catch (error) {
    throw new UsageError(`cannot read ${place({ flag, givenWith, path })}: ${messageOf(error)}`);
  }
}

function readChain(chain: readonly Uint8Array[]): Certificate[] {
  try {
    return chain.slice(0, MAX_CHAIN).map(readCertificate);
  } catch {
    return []; // BoringSSL reads what this code cannot
  }
}

function certificatesToPem(certificates: readonly { readonly der: Uint8Array }[]): Uint8Array {
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
