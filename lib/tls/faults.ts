// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * What is wrong with a certificate, in words.
 *
 * This only explains a rejection by the TLS layer, for the most common causes.
 */

import { constants, type KeyObject, verify } from "node:crypto";
import { equals } from "@std/bytes/equals";
import { messageOf } from "../errors.ts";
import { oneLine, quote } from "../printable.ts";
import {
  type Certificate,
  type CertificateInfo,
  hostNamesOf,
  isoSeconds,
  isSelfIssued,
  quoteNames,
  readCertificate,
} from "./certificate.ts";
import { decodeBlock, pemBlocks } from "./pem.ts";

const MAX_CHAIN = 10;

/** What is wrong with a peer's certificate. */
export interface CertificateFault {
  readonly kind: "missing" | "unreadable" | "untrusted" | "expired" | "early" | "name" | "purpose";
  /** In words. */
  readonly reason: string;
}

/** All reasons in one line, or `undefined` where there is none. */
export function reasonsOf(faults: readonly CertificateFault[]): string | undefined {
  return faults.map(({ reason }) => reason).join("; ") || undefined;
}

/**
 * Why a server's certificate is not acceptable; empty where no reason is found.
 *
 * @param chain the server's chain in DER, leaf first
 * @param ca the trusted CA certificates in PEM
 * @param serverName the DNS name that the certificate has to be for
 * @param now @default {the current time}
 */
export function serverCertificateFaults(
  chain: Uint8Array[] | null,
  ca: Uint8Array,
  serverName: string,
  now: Date = new Date(),
): CertificateFault[] {
  return faultsOf("server", chain, now, (certificates) => {
    const leaf = certificates[0]!;
    const faults: CertificateFault[] = [];
    const untrusted = explainTrust(certificates, trustAnchors(ca), now);
    if (untrusted !== undefined) faults.push({ kind: "untrusted", reason: untrusted });
    // RFC 6125, section 6.4.4: the common name counts only where there are no alternative names.
    const names = hostNamesOf(leaf);
    if (!isForHost(leaf, serverName)) {
      const list = names.length === 0 ? "no DNS name" : quoteNames(names);
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
 * Why a client's certificate is rejected. Verifies no signatures: strangers could make that costly.
 *
 * @param isTrusted whether the TLS layer trusts its CA, or has not verified that yet
 * @param now @default {the current time}
 */
export function clientCertificateFaults(
  chain: Uint8Array[] | null,
  isTrusted: boolean,
  now: Date = new Date(),
): CertificateFault[] {
  return faultsOf("client", chain, now, ([leaf]) => {
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

/** Whether a server with this certificate may be called by a name. */
export function isForHost(certificate: Certificate, name: string): boolean {
  return hostNamesOf(certificate).some((pattern) => matchesHost(pattern, name));
}

/** A wildcard stands for one whole label and, as in BoringSSL, not above a top-level domain. */
function matchesHost(pattern: string, host: string): boolean {
  const [first, ...rest] = pattern.toLowerCase().split(".");
  const labels = host.toLowerCase().split(".");
  if (first === "*" && rest.length >= 2) return labels.slice(1).join(".") === rest.join(".");
  return pattern.toLowerCase() === host.toLowerCase();
}

/** Why a certificate is not valid now; `undefined` within its validity, inclusive. */
export function invalidity(
  { notBefore, notAfter }: CertificateInfo,
  now: Date,
): string | undefined {
  if (now > notAfter) return `expired on ${isoSeconds(notAfter)}`;
  if (now < notBefore) {
    const clock = `check the clock of this machine: it shows ${isoSeconds(now)}`;
    return `is not valid before ${isoSeconds(notBefore)} (${clock})`;
  }
  return undefined;
}

/**
 * The faults of a chain.
 *
 * @param who sent it
 * @param check finds all faults but those of the validity
 */
function faultsOf(
  who: string,
  chain: Uint8Array[] | null,
  now: Date,
  check: (certificates: Certificate[]) => CertificateFault[],
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
  const faults = check(certificates);
  if (invalid === undefined) return faults;
  const kind = now > info.notAfter ? "expired" : "early";
  const validity: CertificateFault = { kind, reason: `certificate ${invalid}` };
  // After the CA, which is usually what is wrong.
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
    const isAnchor = anchors.some((anchor) => equals(anchor.der, here.der));
    if (isAnchor && isSelfIssued(here)) return undefined;
    const issuer = [...anchors, ...chain].find((candidate) =>
      !equals(candidate.der, here.der) && hasSigned(candidate, here)
    );
    if (issuer === undefined) {
      if (isAnchor) {
        return `the CA file contains ${
          quote(here.info.subject)
        } but not the root CA that issued it`;
      }
      const namesake = anchors.some((anchor) => equals(anchor.subjectDer, here.issuerDer));
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
