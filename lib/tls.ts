// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The TLS files of a program, checked before it starts, and certificates in words for logs.
 *
 * Only a certificate's names, key usages and signature are read from its DER here, because Deno's
 * `X509Certificate` gets those wrong: it joins alternative names with ", " whatever they hold, its
 * `checkHost()` knows no wildcards and takes the common name even beside alternative names, and its
 * `verify()` says `false` to good signatures of kinds it does not know. It does the rest.
 */

import { Buffer } from "node:buffer";
import { constants, createPrivateKey, verify, X509Certificate } from "node:crypto";
import type { KeyObject } from "node:crypto";
import { messageOf, UsageError } from "./errors.ts";

/** Far more than any real bundle of CAs needs: the system's own has a fifth of it. */
const MAX_FILE_BYTES = 1024 * 1024;
const MAX_CHAIN = 10;
const MAX_NAMES_SHOWN = 5;

/**
 * What both ends sign handshakes with and accept, in BoringSSL's notation. Without it BoringSSL
 * leaves Ed25519 and P-521 out, so that a certificate with such a key fails every handshake. The
 * PKCS#1 schemes sign no TLS 1.3 handshake; they tell the peer that its chain may use them.
 */
export const SIGNATURE_ALGORITHMS = [
  "ecdsa_secp256r1_sha256",
  "ed25519",
  "rsa_pss_rsae_sha256",
  "ecdsa_secp384r1_sha384",
  "rsa_pss_rsae_sha384",
  "ecdsa_secp521r1_sha512",
  "rsa_pss_rsae_sha512",
  "rsa_pkcs1_sha256",
  "rsa_pkcs1_sha384",
  "rsa_pkcs1_sha512",
].join(":");

const EC_CURVES: readonly unknown[] = ["prime256v1", "secp384r1", "secp521r1"];

/** A certificate in words. All of it is the issuer's claim: escape it where it is shown. */
export interface CertificateInfo {
  /** Distinguished name, such as `O=example, CN=agent-1`; may be empty. */
  readonly subject: string;
  /** Alternative names that are DNS names or URIs, then the common names. */
  readonly names: string[];
  readonly notBefore: Date;
  readonly notAfter: Date;
  readonly issuer: string;
  /** SHA-256 of the DER, as upper-case hex pairs joined by colons. */
  readonly fingerprint256: string;
}

/** What the TLS layer needs, all in PEM. Printed or turned into JSON, it shows `info` only. */
export interface TlsMaterial {
  /** The CA certificates that peers are judged by. */
  readonly ca: Uint8Array;
  /** The own certificate, followed by the intermediates of its file. */
  readonly cert: Uint8Array;
  readonly key: Uint8Array;
  /** About the own certificate. */
  readonly info: CertificateInfo;
}

/** Where {@linkcode loadTlsMaterial} reads from. */
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
    readonly info: CertificateInfo,
  ) {
    this.#key = key;
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

/**
 * Reads the PEM files of a program and checks all that can be known about them before it starts.
 *
 * Keys may be PKCS#8, SEC1 (`EC PRIVATE KEY`) or PKCS#1 (`RSA PRIVATE KEY`), unencrypted; RSA,
 * ECDSA on P-256, P-384 or P-521, or Ed25519. Files may be up to 1 MiB long. Of the own chain only
 * the first certificate must be within its validity; of the CA certificates, one.
 *
 * @param options.now The time that validity is judged at. Default: the current time.
 * @throws {UsageError} One line naming flag and file, for whatever is wrong with them.
 */
export async function loadTlsMaterial(
  files: TlsFiles,
  { now = new Date() }: { now?: Date } = {},
): Promise<TlsMaterial> {
  const caFile = await readPemFile(files.caFlag, files.caFile);
  const certFile = await readPemFile("--cert-file", files.certFile);
  const keyFile = files.keyFile === files.certFile
    ? { ...certFile, flag: "--cert-key" } // a pipe can be read only once
    : await readPemFile("--cert-key", files.keyFile);

  const anchors = certificatesOf(caFile);
  if (!anchors.some((anchor) => invalidity(anchor.info, now) === undefined)) {
    const fault = invalidity(anchors[0]!.info, now);
    throw new UsageError(
      anchors.length === 1
        ? `the CA certificate in ${place(caFile)} ${fault}`
        : `no CA certificate in ${place(caFile)} is valid now; the first ${fault}`,
    );
  }
  if (!anchors.some(isSelfIssued)) {
    // BoringSSL ends a chain only at a root; with an intermediate alone it rejects every peer.
    const subject = quote(anchors[0]!.info.subject);
    throw new UsageError(`${place(caFile)} holds ${subject} but not the root CA that issued it`);
  }

  const chain = certificatesOf(certFile);
  const leaf = chain[0]!;
  const key = privateKeyOf(keyFile);
  if (!belongsTo(key.object, leaf)) {
    const other = chain.findIndex((certificate) => belongsTo(key.object, certificate));
    throw new UsageError(
      other < 0
        ? `${place(keyFile)} does not belong to the certificate in ${place(certFile)}`
        : `${place(keyFile)} belongs to certificate ${other + 1} in ${place(certFile)}, ` +
          "which must come first",
    );
  }
  const invalid = invalidity(leaf.info, now);
  if (invalid !== undefined) {
    throw new UsageError(`the certificate in ${place(certFile)} ${invalid}`);
  }
  if (!leaf.signs) {
    const fault = "may not be used for TLS 1.3: its key usage lacks digitalSignature";
    throw new UsageError(`the certificate in ${place(certFile)} ${fault}`);
  }
  // Written anew, so that BoringSSL meets nothing that was not checked here.
  return new LoadedTlsMaterial(
    certificatesToPem(anchors),
    certificatesToPem(chain),
    toPem(key.label, key.der),
    leaf.info,
  );
}

/**
 * Describes a certificate, for instance the first of a peer's chain.
 *
 * @throws {TypeError} If it cannot be read.
 */
export function describeCertificate(der: Uint8Array): CertificateInfo {
  return readCertificate(der).info;
}

/**
 * Says why a server's certificate is not acceptable, or `undefined` where no reason is found.
 *
 * This explains a rejection, in one line; the rejecting is done by the TLS layer, of whose rules
 * this knows the usual ones.
 *
 * @param chain The server's chain in DER, leaf first.
 * @param ca The trusted CA certificates in PEM.
 * @param serverName The DNS name the certificate has to be for.
 * @param now Default: the current time.
 */
export function explainServerCertificate(
  chain: Uint8Array[] | null,
  ca: Uint8Array,
  serverName: string,
  now: Date = new Date(),
): string | undefined {
  if (chain === null || chain.length === 0) return "the server sent no certificate";
  let certificates: Certificate[];
  try {
    certificates = chain.slice(0, MAX_CHAIN).map(readCertificate);
  } catch (error) {
    return `the certificate cannot be read: ${oneLine(messageOf(error))}`;
  }
  const leaf = certificates[0]!;
  const reasons = [explainTrust(certificates, trustAnchors(ca), now)];
  const invalid = invalidity(leaf.info, now);
  if (invalid !== undefined) reasons.push(`certificate ${invalid}`);
  // RFC 6125, section 6.4.4: the common name counts only where there are no alternative names.
  const names = leaf.hasAlternativeNames ? leaf.dnsNames : leaf.commonNames;
  if (!names.some((name) => matchesHost(name, serverName))) {
    const list = names.length === 0 ? "no DNS name" : quoteAll(names);
    reasons.push(`certificate is for ${list}, not for ${quote(serverName)}`);
  }
  if (!leaf.servesAsServer) reasons.push("certificate is not meant for servers (extendedKeyUsage)");
  return reasons.filter((reason) => reason !== undefined).join("; ") || undefined;
}

function trustAnchors(ca: Uint8Array): Certificate[] {
  try {
    return pemBlocks(new TextDecoder().decode(ca))
      .filter((block) => block.label === "CERTIFICATE")
      .map((block) => readCertificate(decodeBlock(block)));
  } catch {
    return []; // then nothing is trusted, which the explanation will say
  }
}

function explainTrust(
  chain: Certificate[],
  anchors: Certificate[],
  now: Date,
): string | undefined {
  let current = chain[0]!;
  for (let depth = 0; depth < MAX_CHAIN; depth++) {
    const here = current;
    const isAnchor = anchors.some((anchor) => sameBytes(anchor.der, here.der));
    if (isAnchor && isSelfIssued(here)) return undefined;
    const issuer = [...anchors, ...chain].find((candidate) =>
      !sameBytes(candidate.der, here.der) && hasSigned(candidate, here)
    );
    if (issuer === undefined) {
      if (isAnchor) {
        return `the CA file holds ${quote(here.info.subject)} but not the root CA that issued it`;
      }
      const namesake = anchors.some((anchor) => sameBytes(anchor.subjectDer, here.issuerDer));
      const what = depth === 0 ? "certificate" : `certificate of ${quote(here.info.subject)}`;
      const who = namesake ? "but by another CA of the same name" : "but issued by";
      return `${what} is not signed by the CA, ${who} ${quote(here.info.issuer)}`;
    }
    const invalid = invalidity(issuer.info, now);
    if (invalid !== undefined) {
      return `certificate of the CA ${quote(issuer.info.subject)} ${invalid}`;
    }
    current = issuer;
  }
  return undefined;
}

function invalidity({ notBefore, notAfter }: CertificateInfo, now: Date): string | undefined {
  if (now > notAfter) return `expired on ${isoSeconds(notAfter)}`;
  if (now < notBefore) {
    const clock = `is the clock of this machine right? It says ${isoSeconds(now)}`;
    return `is not valid before ${isoSeconds(notBefore)} (${clock})`;
  }
  return undefined;
}

/** A wildcard stands for one whole label and, as in BoringSSL, not above a top-level domain. */
function matchesHost(pattern: string, host: string): boolean {
  const [first, ...rest] = pattern.toLowerCase().split(".");
  const labels = host.toLowerCase().split(".");
  if (first === "*" && rest.length >= 2) return labels.slice(1).join(".") === rest.join(".");
  return pattern.toLowerCase() === host.toLowerCase();
}

// ---- Files and PEM (RFC 7468) ----

interface PemFile {
  readonly flag: string;
  readonly path: string;
  readonly blocks: PemBlock[];
  readonly looksLikeDer: boolean;
}

interface PemBlock {
  readonly label: string;
  /** Counted from 1. */
  readonly line: number;
  readonly base64: string;
  /** By the old way of header lines (RFC 1421); PKCS#8 says it in the label. */
  readonly encrypted: boolean;
}

function place({ flag, path }: { flag: string; path: string }): string {
  return `${flag} ${quote(path)}`;
}

async function readPemFile(flag: string, path: string): Promise<PemFile> {
  let bytes: Uint8Array;
  try {
    bytes = await readBounded(path);
  } catch (error) {
    throw new UsageError(`cannot read ${place({ flag, path })}: ${fileFault(error)}`);
  }
  const looksLikeDer = bytes[0] === 0x30 && bytes[1]! >= 0x80;
  try {
    const blocks = looksLikeDer ? [] : pemBlocks(new TextDecoder().decode(bytes));
    return { flag, path, blocks, looksLikeDer };
  } catch (error) {
    throw new UsageError(`cannot read ${place({ flag, path })}: ${messageOf(error)}`);
  }
}

async function readBounded(path: string): Promise<Uint8Array> {
  using file = await Deno.open(path);
  // Not by the size in stat(): a pipe has none, and a secret may well come through one.
  const buffer = new Uint8Array(MAX_FILE_BYTES + 1);
  let length = 0;
  while (length < buffer.length) {
    const count = await file.read(buffer.subarray(length));
    if (count === null) return buffer.slice(0, length);
    length += count;
  }
  throw new RangeError("larger than 1 MiB");
}

function fileFault(error: unknown): string {
  if (error instanceof Deno.errors.NotCapable) return "Deno was not given --allow-read for it";
  return oneLine(messageOf(error).replace(/ \(os error \d+\).*$/s, ""));
}

/** Splits a text into its PEM blocks, taking time in proportion to its length. */
function pemBlocks(text: string): PemBlock[] {
  const blocks: PemBlock[] = [];
  let open: { label: string; line: number; encrypted: boolean; body: string[] } | undefined;
  for (const [index, untrimmed] of text.split(/\r\n|\r|\n/).entries()) {
    const line = untrimmed.trim();
    const [, edge, label] = /^-----(BEGIN|END) ([A-Z0-9 ]{1,64})-----$/.exec(line) ?? [];
    if (edge === "BEGIN") {
      if (open !== undefined) throw unended(open);
      open = { label: label!, line: index + 1, encrypted: false, body: [] };
    } else if (open === undefined) {
      continue; // text between the blocks is allowed
    } else if (edge === "END") {
      if (label !== open.label) throw unended(open);
      blocks.push({ ...open, base64: open.body.join("") });
      open = undefined;
    } else if (line.includes(":")) {
      if (/^Proc-Type:.*ENCRYPTED/i.test(line)) open.encrypted = true;
    } else {
      open.body.push(line);
    }
  }
  if (open !== undefined) throw unended(open);
  return blocks;
}

function unended({ label, line }: { label: string; line: number }): SyntaxError {
  return new SyntaxError(`the ${label} begun in line ${line} has no END line of its own`);
}

function decodeBlock({ base64 }: PemBlock): Uint8Array {
  if (base64.length % 4 !== 0 || !/^[A-Za-z0-9+/]+={0,2}$/.test(base64)) {
    throw new SyntaxError("not valid base64");
  }
  return new Uint8Array(Buffer.from(base64, "base64"));
}

function toPem(label: string, der: Uint8Array): Uint8Array {
  const lines = Buffer.from(der).toString("base64").match(/.{1,64}/g) ?? [];
  const text = [`-----BEGIN ${label}-----`, ...lines, `-----END ${label}-----`, ""].join("\n");
  return new TextEncoder().encode(text);
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
    throw new UsageError(`the private key in ${place(file)} is encrypted: not supported`);
  }
  const types = { "PRIVATE KEY": "pkcs8", "EC PRIVATE KEY": "sec1", "RSA PRIVATE KEY": "pkcs1" };
  const type = Object.entries(types).find(([known]) => known === label)?.[1];
  if (type === undefined) {
    throw new UsageError(`the private key in ${place(file)} is of a kind not supported: ${label}`);
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
    throw new UsageError(`the private key in ${place(file)} is of a kind not supported: ${what}`);
  }
  return { label, der, object };
}

function nothingIn(file: PemFile, what: string): string {
  const hint = file.looksLikeDer
    ? "it looks like DER, which has to be converted"
    : file.blocks.length === 0
    ? "it is not a PEM file"
    : `it holds ${[...new Set(file.blocks.map((block) => block.label))].slice(0, 5).join(", ")}`;
  return `no ${what} in ${place(file)}: ${hint}`;
}

// ---- Certificates (RFC 5280) ----

interface Certificate {
  readonly der: Uint8Array;
  readonly x509: X509Certificate;
  readonly info: CertificateInfo;
  readonly signedPart: Uint8Array;
  readonly signature: Uint8Array;
  readonly issuerDer: Uint8Array;
  readonly subjectDer: Uint8Array;
  readonly hasAlternativeNames: boolean;
  readonly dnsNames: string[];
  readonly commonNames: string[];
  /** Whether its key usage lets its key sign handshakes. */
  readonly signs: boolean;
  /** Whether its extended key usage lets it be a server's. */
  readonly servesAsServer: boolean;
}

const OID = {
  commonName: "550403",
  keyUsage: "551d0f",
  subjectAltName: "551d11",
  extendedKeyUsage: "551d25",
  anyExtendedKeyUsage: "551d2500",
  serverAuth: "2b06010505070301",
};

function readCertificate(der: Uint8Array): Certificate {
  try {
    const x509 = new X509Certificate(Buffer.from(der));
    const [outer, ...rest] = derItems(der);
    if (outer === undefined || rest.length > 0) throw new TypeError("bytes after its end");
    const [tbs, , signature] = derItems(outer.body) as [DerItem, DerItem, DerItem];
    const fields = derItems(tbs.body);
    if (fields[0]!.tag === 0xa0) fields.shift(); // the version
    const [, , issuer, , subject] = fields as [DerItem, DerItem, DerItem, DerItem, DerItem];
    const extensions = readExtensions(fields.find((field) => field.tag === 0xa3));

    const alternative = extensions.get(OID.subjectAltName);
    const names = alternative === undefined ? [] : derItems(derItems(alternative)[0]!.body);
    const textsOf = (tag: number) => names.filter((name) => name.tag === tag).map(derText);
    const dnsNames = textsOf(0x82);
    const commonNames = derItems(subject.body)
      .flatMap((set) => derItems(set.body).map((attribute) => derItems(attribute.body)))
      .filter(([type]) => hex(type!.body) === OID.commonName)
      .map(([, value]) => derText(value!));
    const usage = extensions.get(OID.keyUsage);
    const purposes = extensions.get(OID.extendedKeyUsage);
    const info = {
      subject: oneLineName(x509.subject),
      names: [...new Set([...dnsNames, ...textsOf(0x86), ...commonNames])],
      notBefore: validDate(x509.validFromDate),
      notAfter: validDate(x509.validToDate),
      issuer: oneLineName(x509.issuer),
      fingerprint256: x509.fingerprint256,
    };
    return {
      der,
      x509,
      info,
      signedPart: tbs.whole,
      signature: signature.body.subarray(1), // after the count of unused bits
      issuerDer: issuer.whole,
      subjectDer: subject.whole,
      hasAlternativeNames: alternative !== undefined,
      dnsNames,
      commonNames,
      signs: usage === undefined || (derItems(usage)[0]!.body[1]! & 0x80) !== 0,
      servesAsServer: purposes === undefined ||
        derItems(derItems(purposes)[0]!.body).some(({ body }) =>
          [OID.serverAuth, OID.anyExtendedKeyUsage].includes(hex(body))
        ),
    };
  } catch (error) {
    throw new TypeError(`not a certificate: ${messageOf(error)}`, { cause: error });
  }
}

/** The values by the hex of their object identifier. */
function readExtensions(field: DerItem | undefined): Map<string, Uint8Array> {
  if (field === undefined) return new Map();
  return new Map(
    derItems(derItems(field.body)[0]!.body).map((extension) => {
      const parts = derItems(extension.body);
      return [hex(parts[0]!.body), parts.at(-1)!.body];
    }),
  );
}

function isSelfIssued({ issuerDer, subjectDer }: Certificate): boolean {
  return sameBytes(issuerDer, subjectDer);
}

function belongsTo(key: KeyObject, certificate: Certificate): boolean {
  try {
    return certificate.x509.checkPrivateKey(key);
  } catch {
    return false; // keys of different kinds
  }
}

function hasSigned({ x509 }: Certificate, { signedPart, signature }: Certificate): boolean {
  let key: KeyObject;
  try {
    key = x509.publicKey;
  } catch {
    return false; // of a kind that cannot be used
  }
  const kind = key.asymmetricKeyType;
  const attempt = (hash: string | null, padding?: number) => {
    try {
      return verify(hash, signedPart, padding === undefined ? key : { key, padding }, signature);
    } catch {
      return false; // not a way to sign with such a key
    }
  };
  if (kind === "ed25519") return attempt(null);
  // Trying each is simpler than reading the algorithm, and for an explanation as good.
  return ["sha256", "sha384", "sha512", "sha1"].some((hash) =>
    attempt(hash) || (kind === "rsa" && attempt(hash, constants.RSA_PKCS1_PSS_PADDING))
  );
}

interface DerItem {
  readonly tag: number;
  readonly body: Uint8Array;
  /** With tag and length. */
  readonly whole: Uint8Array;
}

/** The elements of a DER sequence's body (X.690, sections 8.1 and 10.1). */
function derItems(bytes: Uint8Array): DerItem[] {
  const items: DerItem[] = [];
  let at = 0;
  while (at < bytes.length) {
    const start = at;
    const tag = bytes[at++]!;
    let length = bytes[at++] ?? NaN;
    if (length >= 0x80) {
      const count = length & 0x7f;
      if (count === 0 || count > 3) throw new TypeError("unusable DER length");
      length = 0;
      for (let i = 0; i < count; i++) length = length * 256 + (bytes[at++] ?? NaN);
    }
    if ((tag & 0x1f) === 0x1f || !(at + length <= bytes.length)) throw new TypeError("bad DER");
    const end = at + length;
    items.push({ tag, body: bytes.subarray(at, end), whole: bytes.subarray(start, end) });
    at = end;
  }
  return items;
}

function derText({ tag, body }: DerItem): string {
  const encoding = tag === 0x0c ? "utf-8" : tag === 0x1e ? "utf-16be" : "latin1";
  return new TextDecoder(encoding).decode(body);
}

function validDate(date: Date): Date {
  if (Number.isNaN(date.getTime())) throw new TypeError("unusable validity");
  return date;
}

// ---- Words ----

/** Node puts every part of a distinguished name on a line of its own; an empty one is missing. */
function oneLineName(name: string | undefined): string {
  return (name ?? "").replaceAll("\n", ", ");
}

function isoSeconds(date: Date): string {
  return date.toISOString().replace(/\.\d+Z$/, "Z");
}

/** Quotes what others wrote: bounded, and with nothing in it that a terminal would obey. */
function quote(text: string): string {
  const quoted = JSON.stringify(text.length > 200 ? `${text.slice(0, 200)}…` : text);
  return quoted.replace(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
    (char) => `\\u{${char.codePointAt(0)!.toString(16)}}`,
  );
}

function quoteAll(names: string[]): string {
  const more = names.length - MAX_NAMES_SHOWN;
  const shown = names.slice(0, MAX_NAMES_SHOWN).map(quote).join(", ");
  return more > 0 ? `${shown} and ${more} more` : shown;
}

function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\p{Zl}\p{Zp}]+/gu, " ").trim();
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
