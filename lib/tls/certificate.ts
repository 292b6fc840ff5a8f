// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Certificates (RFC 5280): read from DER, described in words for logs, and judged.
 *
 * Only a certificate's names, key usages and signature are read from its DER here, because Deno's
 * `X509Certificate` gets those wrong: it joins alternative names with ", " whatever they hold, its
 * `checkHost()` knows no wildcards and takes the common name even beside alternative names, and its
 * `verify()` says `false` to good signatures of kinds it does not know. It does the rest.
 */

import { oneLine, quote, shorten } from "../printable.ts";
import { Buffer } from "node:buffer";
import { constants, verify, X509Certificate } from "node:crypto";
import type { KeyObject } from "node:crypto";
import { messageOf } from "../errors.ts";
import { decodeBlock, pemBlocks } from "./pem.ts";

const MAX_CHAIN = 10;
const MAX_NAMES_SHOWN = 5;

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

/**
 * Describes a certificate, for instance the first of a peer's chain.
 *
 * @throws {TypeError} If it cannot be read.
 */
export function describeCertificate(der: Uint8Array): CertificateInfo {
  return readCertificate(der).info;
}

/** What a log line says of a certificate. Its names are bounded in number and length. */
export function certificateFields({ subject, names, fingerprint256, notAfter }: CertificateInfo) {
  return {
    subject: shorten(subject),
    names: listNames(names),
    fingerprint: fingerprint256,
    notAfter: isoSeconds(notAfter),
  };
}

/** Names for a log line, bounded in number and length; those that are not plain words are quoted. */
export function listNames(names: readonly string[]): string {
  return listSome(names, (name) => /^[^\s,"\\]+$/.test(name) ? shorten(name) : quote(name));
}

/** What is wrong with a peer's certificate. */
export interface CertificateFault {
  readonly kind: "missing" | "unreadable" | "untrusted" | "expired" | "early" | "name" | "purpose";
  /** In words. */
  readonly reason: string;
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
  return reasonsOf(serverCertificateFaults(chain, ca, serverName, now));
}

/** All reasons in one line, or `undefined` where there is none. */
export function reasonsOf(faults: readonly CertificateFault[]): string | undefined {
  return faults.map(({ reason }) => reason).join("; ") || undefined;
}

/** The same as {@linkcode explainServerCertificate}, one by one. */
export function serverCertificateFaults(
  chain: Uint8Array[] | null,
  ca: Uint8Array,
  serverName: string,
  now: Date = new Date(),
): CertificateFault[] {
  return judgeLeaf("server", chain, now, (certificates) => {
    const leaf = certificates[0]!;
    const faults: CertificateFault[] = [];
    const untrusted = explainTrust(certificates, trustAnchors(ca), now);
    if (untrusted !== undefined) faults.push({ kind: "untrusted", reason: untrusted });
    // RFC 6125, section 6.4.4: the common name counts only where there are no alternative names.
    const names = hostNamesOf(leaf);
    if (!isForHost(leaf, serverName)) {
      const list = names.length === 0 ? "no DNS name" : quoteAll(names);
      const reason = `certificate is for ${list}, not for ${quote(serverName)}`;
      faults.push({ kind: "name", reason });
    }
    if (!leaf.servesAsServer) {
      const reason = "certificate is not meant for servers (extendedKeyUsage)";
      faults.push({ kind: "purpose", reason });
    }
    return faults;
  });
}

/**
 * Why a client's certificate is not acceptable. Verifies no signatures: strangers could have that cost much.
 *
 * @param isTrusted Whether the TLS layer has found it to be of a trusted CA, or not got as far.
 */
export function clientCertificateFaults(
  chain: Uint8Array[] | null,
  isTrusted: boolean,
  now: Date = new Date(),
): CertificateFault[] {
  return judgeLeaf("client", chain, now, ([leaf]) => {
    const faults: CertificateFault[] = [];
    if (!isTrusted) {
      const reason = `certificate is issued by ${quote(leaf!.info.issuer)}`;
      faults.push({ kind: "untrusted", reason });
    }
    if (!leaf!.servesAsClient) {
      const reason = "certificate is not meant for clients (extendedKeyUsage)";
      faults.push({ kind: "purpose", reason });
    }
    return faults;
  }, 1);
}

/** The names that a server's certificate is for. */
export function hostNamesOf(
  { hasAlternativeNames, dnsNames, commonNames }: Certificate,
): readonly string[] {
  return hasAlternativeNames ? dnsNames : commonNames;
}

/** Whether a server with this certificate may be called by a name. */
export function isForHost(certificate: Certificate, name: string): boolean {
  return hostNamesOf(certificate).some((pattern) => matchesHost(pattern, name));
}

/** What one end has against the other's chain, its validity included. */
function judgeLeaf(
  who: string,
  chain: Uint8Array[] | null,
  now: Date,
  judge: (certificates: Certificate[]) => CertificateFault[],
  maxChain = MAX_CHAIN,
): CertificateFault[] {
  if (chain === null || chain.length === 0) {
    return [{ kind: "missing", reason: `the ${who} sent no certificate` }];
  }
  let certificates: Certificate[];
  try {
    certificates = chain.slice(0, maxChain).map(readCertificate);
  } catch (error) {
    const reason = `the certificate cannot be read: ${oneLine(messageOf(error))}`;
    return [{ kind: "unreadable", reason }];
  }
  const { info } = certificates[0]!;
  const invalid = invalidity(info, now);
  const faults = judge(certificates);
  if (invalid === undefined) return faults;
  const kind = now > info.notAfter ? "expired" : "early";
  const validity: CertificateFault = { kind, reason: `certificate ${invalid}` };
  // Behind the CA, which is what mostly is wrong.
  const at = faults[0]?.kind === "untrusted" ? 1 : 0;
  return faults.toSpliced(at, 0, validity);
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

/** Says what is wrong with the time, or `undefined` within the validity, its ends included. */
export function invalidity(
  { notBefore, notAfter }: CertificateInfo,
  now: Date,
): string | undefined {
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

// ---- Reading ----

/** A certificate with what is needed to judge it. */
export interface Certificate {
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
  /** Whether its extended key usage lets it be a client's. */
  readonly servesAsClient: boolean;
}

const OID = {
  commonName: "550403",
  keyUsage: "551d0f",
  subjectAltName: "551d11",
  extendedKeyUsage: "551d25",
  anyExtendedKeyUsage: "551d2500",
  serverAuth: "2b06010505070301",
  clientAuth: "2b06010505070302",
};

/**
 * Reads a certificate, and nothing after it.
 *
 * @throws {TypeError} If it cannot be read.
 */
export function readCertificate(der: Uint8Array): Certificate {
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
    const servesAs = (purpose: string) =>
      purposes === undefined ||
      derItems(derItems(purposes)[0]!.body).some(({ body }) =>
        [purpose, OID.anyExtendedKeyUsage].includes(hex(body))
      );
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
      servesAsServer: servesAs(OID.serverAuth),
      servesAsClient: servesAs(OID.clientAuth),
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

/** Whether a certificate names itself as its issuer, as those of root CAs do. */
export function isSelfIssued({ issuerDer, subjectDer }: Certificate): boolean {
  return sameBytes(issuerDer, subjectDer);
}

/** Whether a private key is the one of a certificate. */
export function belongsTo(key: KeyObject, certificate: Certificate): boolean {
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

function quoteAll(names: readonly string[]): string {
  return listSome(names, quote);
}

function listSome(names: readonly string[], show: (name: string) => string): string {
  const more = names.length - MAX_NAMES_SHOWN;
  const shown = names.slice(0, MAX_NAMES_SHOWN).map(show).join(", ");
  return more > 0 ? `${shown} and ${more} more` : shown;
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}
