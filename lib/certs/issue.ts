// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Issues X.509 certificates: ECDSA on P-256, signed with SHA-256. */

import "reflect-metadata"; // before @peculiar/x509, which needs it while it loads
import * as x509 from "@peculiar/x509";

const DAY_MS = 24 * 60 * 60 * 1000;
const VALID_MS = 365 * DAY_MS;
/** The other end's clock may be behind. */
const BACKDATED_MS = 5 * 60 * 1000;
const KEY_ALGORITHM = { name: "ECDSA", namedCurve: "P-256" };

/** A certificate with its private key. */
export interface Issued {
  readonly certPem: string;
  /** PKCS#8, not encrypted. */
  readonly keyPem: string;
  readonly certificate: x509.X509Certificate;
  readonly keys: CryptoKeyPair;
}

/** When a certificate is valid; both ends of the interval are kept to the second. */
export interface Validity {
  /** @default five minutes ago, because clocks differ */
  readonly notBefore?: Date;
  /** @default in 365 days, or the end of the issuing CA if that comes first */
  readonly notAfter?: Date;
}

export interface CaOptions extends Validity {
  readonly commonName: string;
}

export interface CertificateOptions extends Validity {
  readonly commonName: string;
  /** Which end of a connection may use the certificate. */
  readonly usage: "server" | "client";
  /** DNS names among the alternative names. @default none */
  readonly dnsNames?: readonly string[];
  /** URIs among the alternative names. @default none */
  readonly uris?: readonly string[];
  /** IP addresses, v4 or v6, among the alternative names. @default none */
  readonly ipAddresses?: readonly string[];
}

/** Makes a root CA that issues end certificates only. */
export async function createCa(options: CaOptions): Promise<Issued> {
  const keys = await generateKeys();
  const name = nameOf(options.commonName);
  const certificate = await x509.X509CertificateGenerator.create({
    ...period(options),
    subject: name,
    issuer: name,
    serialNumber: randomSerial(),
    publicKey: keys.publicKey,
    signingKey: keys.privateKey,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(
        x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign,
        true,
      ),
      ...await keyIdentifiers(keys.publicKey, keys.publicKey),
    ],
  });
  return await issued(certificate, keys);
}

/**
 * Takes up a CA that {@linkcode createCa} made, to issue more with it.
 *
 * @throws {Error} when one of the two cannot be read, or the key is not the certificate's
 */
export async function readCa(certPem: string, keyPem: string): Promise<Issued> {
  const certificate = new x509.X509Certificate(certPem);
  const pkcs8 = x509.PemConverter.decodeFirst(keyPem);
  const privateKey = await crypto.subtle.importKey("pkcs8", pkcs8, KEY_ALGORITHM, true, ["sign"]);
  const publicKey = await certificate.publicKey.export(KEY_ALGORITHM, ["verify"]);
  const algorithm = { name: "ECDSA", hash: "SHA-256" };
  const probe = crypto.getRandomValues(new Uint8Array(32));
  const signature = await crypto.subtle.sign(algorithm, privateKey, probe);
  if (!await crypto.subtle.verify(algorithm, publicKey, signature, probe)) {
    throw new Error("the key is not that of the certificate");
  }
  return { certPem, keyPem, certificate, keys: { privateKey, publicKey } };
}

/** Makes a key and has the CA issue the certificate of a server or a client for it. */
export async function issueCertificate(ca: Issued, options: CertificateOptions): Promise<Issued> {
  const keys = await generateKeys();
  const names: x509.JsonGeneralNames = [
    ...(options.dnsNames ?? []).map((value) => ({ type: "dns" as const, value })),
    ...(options.uris ?? []).map((value) => ({ type: "url" as const, value })),
    ...(options.ipAddresses ?? []).map((value) => ({ type: "ip" as const, value })),
  ];
  const usage = x509.ExtendedKeyUsage[options.usage === "server" ? "serverAuth" : "clientAuth"];
  const certificate = await x509.X509CertificateGenerator.create({
    ...period(options, ca.certificate.notAfter),
    subject: nameOf(options.commonName),
    issuer: ca.certificate.subjectName,
    serialNumber: randomSerial(),
    publicKey: keys.publicKey,
    signingKey: ca.keys.privateKey,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([usage]),
      // RFC 5280, section 4.2.1.6: the extension must not be there without a name in it.
      ...(names.length > 0 ? [new x509.SubjectAlternativeNameExtension(names)] : []),
      ...await keyIdentifiers(keys.publicKey, ca.keys.publicKey),
    ],
  });
  return await issued(certificate, keys);
}

function generateKeys(): Promise<CryptoKeyPair> {
  return crypto.subtle.generateKey(KEY_ALGORITHM, true, ["sign", "verify"]);
}

/** By type and value, not as text: a comma in the name stays a comma. */
function nameOf(commonName: string): x509.JsonName {
  return [{ CN: [commonName] }];
}

function period({ notBefore, notAfter }: Validity, latest?: Date) {
  const now = Date.now();
  const end = Math.min(now + VALID_MS, latest?.getTime() ?? Infinity);
  return {
    notBefore: notBefore ?? new Date(now - BACKDATED_MS),
    notAfter: notAfter ?? new Date(end),
  };
}

/** 128 random bits; the encoding puts a zero byte before them where the sign bit would be set. */
function randomSerial(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function keyIdentifiers(own: CryptoKey, issuer: CryptoKey): Promise<x509.Extension[]> {
  return [
    await x509.SubjectKeyIdentifierExtension.create(own),
    await x509.AuthorityKeyIdentifierExtension.create(issuer),
  ];
}

async function issued(certificate: x509.X509Certificate, keys: CryptoKeyPair): Promise<Issued> {
  const pkcs8 = await crypto.subtle.exportKey("pkcs8", keys.privateKey);
  return {
    certPem: certificate.toString("pem") + "\n",
    keyPem: x509.PemConverter.encode(pkcs8, "PRIVATE KEY") + "\n",
    certificate,
    keys,
  };
}
