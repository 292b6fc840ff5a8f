// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Certificates (RFC 5280): read from DER, and described in words for logs.
 *
 * Only a certificate's names, key usages and signature are read from its DER here, because Deno's
 * `X509Certificate` gets those wrong: it joins alternative names with ", " whatever they hold, its
 * `checkHost()` knows no wildcards and takes the common name even beside alternative names, and its
 * `verify()` says `false` to good signatures of kinds it does not know. It does the rest.
 */

import { Buffer } from "node:buffer";
import { constants, type KeyObject, verify, X509Certificate } from "node:crypto";
import { equals } from "@std/bytes/equals";
import { messageOf } from "../errors.ts";
import { formatIp, isIpAddress } from "../net/ip_address.ts";
import { quote, shorten } from "../printable.ts";
import { type DerItem, derItems, derText } from "./der.ts";

const MAX_NAMES_SHOWN = 5;

/** Longest subject or name in a log field, in UTF-16 code units. */
const MAX_NAME_LENGTH = 200;

/** A certificate in words. All of it is the issuer's claim: escape it where it is shown. */
export interface CertificateInfo {
  /** Distinguished name, such as `O=example, CN=agent-1`; may be empty. */
  readonly subject: string;
  /** DNS names and URIs among the alternative names, the common names, then IP addresses. */
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
 * @throws {TypeError} when it cannot be read
 */
export function describeCertificate(der: Uint8Array): CertificateInfo {
  return readCertificate(der).info;
}

/** Log fields of a certificate. Names are limited in number and length. */
export function certificateFields({ subject, names, fingerprint256, notAfter }: CertificateInfo) {
  return {
    subject: shorten(subject, MAX_NAME_LENGTH),
    names: listNames(names),
    fingerprint: fingerprint256,
    notAfter: isoSeconds(notAfter),
  };
}

/** Names for a log line, limited in number and length; those with special characters are quoted. */
export function listNames(names: readonly string[]): string {
  return listSome(
    names,
    (name) => /^[^\s,"\\]+$/.test(name) ? shorten(name, MAX_NAME_LENGTH) : quote(name),
  );
}

/** The same, with each of them quoted. */
export function quoteNames(names: readonly string[]): string {
  return listSome(names, quote);
}

/** A certificate with what is needed to find its faults. */
export interface Certificate {
  readonly der: Uint8Array;
  readonly x509: X509Certificate;
  readonly info: CertificateInfo;
  /** Whether it is of version 3, and so has extensions. */
  readonly isVersion3: boolean;
  readonly signedPart: Uint8Array;
  readonly signature: Uint8Array;
  readonly issuerDer: Uint8Array;
  readonly subjectDer: Uint8Array;
  readonly hasAlternativeNames: boolean;
  readonly dnsNames: string[];
  readonly commonNames: string[];
  /** Alternative names that are URIs. */
  readonly uris: string[];
  /** Alternative names of 4 or 16 bytes. */
  readonly ipAddresses: Uint8Array[];
  /** Value of the extension, in DER. */
  readonly nameConstraints: Uint8Array | undefined;
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
  nameConstraints: "551d1e",
  extendedKeyUsage: "551d25",
  anyExtendedKeyUsage: "551d2500",
  serverAuth: "2b06010505070301",
  clientAuth: "2b06010505070302",
};

/** The integer 2 in DER. */
const VERSION_3 = "020102";

/**
 * Reads a certificate, and nothing after it.
 *
 * @throws {TypeError} when it cannot be read
 */
export function readCertificate(der: Uint8Array): Certificate {
  try {
    const x509 = new X509Certificate(Buffer.from(der));
    const { version, signedPart, signature, issuer, subject, extensions } = partsOf(der);
    const alternative = extensions.get(OID.subjectAltName);
    const names = alternative === undefined ? [] : sequenceOf(alternative);
    const textsOf = (tag: number) => names.filter((name) => name.tag === tag).map(derText);
    const dnsNames = textsOf(0x82);
    const uris = textsOf(0x86);
    const commonNames = commonNamesOf(subject);
    const ipAddresses = names.filter(isIpName).map(({ body }) => body);
    const usage = extensions.get(OID.keyUsage);
    const purposes = extensions.get(OID.extendedKeyUsage);
    return {
      der,
      x509,
      info: {
        subject: oneLineName(x509.subject),
        names: [
          ...new Set([
            // A DNS name in the form of an IP address stands for none (RFC 9525, section 6.5).
            ...dnsNames.filter((name) => !isIpAddress(name)),
            ...uris,
            ...commonNames,
            ...ipAddresses.map(formatIp),
          ]),
        ],
        notBefore: validDate(x509.validFromDate),
        notAfter: validDate(x509.validToDate),
        issuer: oneLineName(x509.issuer),
        fingerprint256: x509.fingerprint256,
      },
      isVersion3: version === VERSION_3,
      signedPart: signedPart.whole,
      signature: signature.body.subarray(1), // after the count of unused bits
      issuerDer: issuer.whole,
      subjectDer: subject.whole,
      hasAlternativeNames: alternative !== undefined,
      dnsNames,
      commonNames,
      uris,
      ipAddresses,
      nameConstraints: extensions.get(OID.nameConstraints),
      signs: usage === undefined || (derItems(usage)[0]!.body[1]! & 0x80) !== 0,
      servesAsServer: allowsPurpose(purposes, OID.serverAuth),
      servesAsClient: allowsPurpose(purposes, OID.clientAuth),
    };
  } catch (error) {
    throw new TypeError(`not a certificate: ${messageOf(error)}`, { cause: error });
  }
}

/**
 * The parts of a certificate (RFC 5280, section 4.1), extensions by hexadecimal object identifier.
 */
function partsOf(der: Uint8Array) {
  const [outer, ...rest] = derItems(der);
  if (outer === undefined || rest.length > 0) throw new TypeError("trailing bytes");
  const [signedPart, , signature] = derItems(outer.body) as [DerItem, DerItem, DerItem];
  const fields = derItems(signedPart.body);
  const version = fields[0]!.tag === 0xa0 ? fields.shift()!.body.toHex() : undefined;
  const [, , issuer, , subject] = fields as [DerItem, DerItem, DerItem, DerItem, DerItem];
  const extensions = readExtensions(fields.find((field) => field.tag === 0xa3));
  return { version, signedPart, signature, issuer, subject, extensions };
}

function readExtensions(field: DerItem | undefined): Map<string, Uint8Array> {
  if (field === undefined) return new Map();
  return new Map(
    sequenceOf(field.body).map(({ body }) => {
      const parts = derItems(body);
      return [parts[0]!.body.toHex(), parts.at(-1)!.body];
    }),
  );
}

/** An iPAddress; there are other lengths in invalid certificates. */
function isIpName({ tag, body }: DerItem): boolean {
  return tag === 0x87 && (body.length === 4 || body.length === 16);
}

/** The elements of the sequence that the bytes are. */
function sequenceOf(bytes: Uint8Array): DerItem[] {
  return derItems(derItems(bytes)[0]!.body);
}

function commonNamesOf({ body }: DerItem): string[] {
  return derItems(body)
    .flatMap((set) => derItems(set.body).map((attribute) => derItems(attribute.body)))
    .filter(([type]) => type!.body.toHex() === OID.commonName)
    .map(([, value]) => derText(value!));
}

function allowsPurpose(extendedKeyUsage: Uint8Array | undefined, purpose: string): boolean {
  return extendedKeyUsage === undefined ||
    sequenceOf(extendedKeyUsage).some(({ body }) =>
      [purpose, OID.anyExtendedKeyUsage].includes(body.toHex())
    );
}

/** Whether a certificate names itself as its issuer, as those of root CAs do. */
export function isSelfIssued({ issuerDer, subjectDer }: Certificate): boolean {
  return equals(issuerDer, subjectDer);
}

/** Whether a certificate of a CA file is one that a chain may end at: of a root, or of any CA. */
export function isAnchor(certificate: Certificate): boolean {
  return isSelfIssued(certificate) || certificate.x509.ca;
}

/** Whether a private key is the one of a certificate. */
export function belongsTo(key: KeyObject, certificate: Certificate): boolean {
  try {
    return certificate.x509.checkPrivateKey(key);
  } catch {
    return false; // keys of different kinds
  }
}

/** Whether the key of one certificate has signed another. */
export function hasSigned({ x509 }: Certificate, { signedPart, signature }: Certificate): boolean {
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

/** The names that a server's certificate is for. */
export function hostNamesOf(
  { hasAlternativeNames, dnsNames, ipAddresses, commonNames }: Certificate,
): readonly string[] {
  return hasAlternativeNames ? [...dnsNames, ...ipAddresses.map(formatIp)] : commonNames;
}

function validDate(date: Date): Date {
  if (Number.isNaN(date.getTime())) throw new TypeError("invalid validity period");
  return date;
}

/** Node puts every part of a distinguished name on a line of its own; an empty one is missing. */
function oneLineName(name: string | undefined): string {
  return (name ?? "").replaceAll("\n", ", ");
}

/** Without the milliseconds, which no certificate has. */
export function isoSeconds(date: Date): string {
  return date.toISOString().replace(/\.\d+Z$/, "Z");
}

function listSome(names: readonly string[], show: (name: string) => string): string {
  const more = names.length - MAX_NAMES_SHOWN;
  const shown = names.slice(0, MAX_NAMES_SHOWN).map(show).join(", ");
  return more > 0 ? `${shown} and ${more} more` : shown;
}
