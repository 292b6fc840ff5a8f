// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * What is wrong with a certificate, in words.
 *
 * This only explains a rejection by the TLS layer, for the most common causes.
 */

import { equals } from "@std/bytes/equals";
import { messageOf } from "../errors.ts";
import { ipBytes, unmapIp } from "../net/ip_address.ts";
import type { TlsIdentity } from "../quic/mod.ts";
import { oneLine, quote } from "../printable.ts";
import {
  type Certificate,
  type CertificateInfo,
  hasSigned,
  hostNamesOf,
  isAnchor,
  isoSeconds,
  isSelfIssued,
  quoteNames,
  readCertificate,
} from "./certificate.ts";
import { violationOf } from "./name_constraints.ts";
import { decodeBlock, pemBlocks } from "./pem.ts";

const MAX_CHAIN = 10;

/** What is said before the validity of the peer's certificate. */
const AFTER: readonly CertificateFault["kind"][] = ["untrusted", "ca", "chain"];

/** What is wrong with a peer's certificate. */
export interface CertificateFault {
  readonly kind:
    | "missing"
    | "unreadable"
    | "untrusted"
    /** Its CA in the own file is not valid now. */
    | "ca"
    /** An intermediate that came with it is not valid now. */
    | "chain"
    | "expired"
    | "early"
    | "name"
    | "purpose"
    /** A CA of it has name constraints that forbid a name in it. */
    | "constraint"
    /** It is of an old version of X.509. */
    | "version";
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
 * @param serverName the DNS name or IP address that the certificate has to be for
 * @param now @default {the current time}
 * @param leftOutCa further CA certificates, which the TLS layer does not get as they are not valid
 */
export function serverCertificateFaults(
  chain: Uint8Array[] | null,
  ca: Uint8Array,
  serverName: string,
  now: Date = new Date(),
  leftOutCa?: Uint8Array,
): CertificateFault[] {
  return faultsOf("server", chain, now, (certificates) => {
    const leaf = certificates[0]!;
    const faults = trustFaults(certificates, ca, now, leftOutCa);
    // RFC 6125, section 6.4.4: the common name counts only where there are no alternative names.
    const names = hostNamesOf(leaf);
    if (!isForHost(leaf, serverName)) {
      const list = names.length === 0 ? "no DNS name or IP address" : quoteNames(names);
      // A DNS name of the same form does not count.
      const wanted = `${ipBytes(serverName) ? "the IP address " : ""}${quote(serverName)}`;
      const reason = `certificate is for ${list}, not for ${wanted}`;
      faults.push({ kind: "name", reason });
    }
    if (!leaf.servesAsServer) {
      const reason = "certificate is not meant for servers (extendedKeyUsage)";
      faults.push({ kind: "purpose", reason });
    }
    return faults;
  });
}

/** Why a chain does not lead to a CA in a file, by signatures, or may not have the leaf's names. */
function trustFaults(
  chain: Certificate[],
  ca: Uint8Array,
  now: Date,
  leftOutCa?: Uint8Array,
): CertificateFault[] {
  const { valid: anchors = [], invalid = [] } = Object.groupBy(
    certificatesIn(ca),
    ({ info }) => invalidity(info, now) === undefined ? "valid" : "invalid",
  );
  const leftOut = [...invalid, ...certificatesIn(leftOutCa)];
  const untrusted = explainTrust(chain, anchors, leftOut, now);
  return untrusted !== undefined ? [untrusted] : violatedConstraints(chain, anchors);
}

/**
 * Why a client's certificate is not acceptable, with the signatures verified, which strangers could
 * make costly: limit how often. Empty where no reason is found.
 *
 * @param chain the client's chain in DER, leaf first
 * @param cas the CA certificates in PEM that are trusted, and those that are not valid
 * @param now @default {the current time}
 */
export function verifiedClientFaults(
  chain: readonly Uint8Array[],
  cas: Pick<TlsIdentity, "ca" | "leftOutCa">,
  now: Date = new Date(),
): CertificateFault[] {
  return faultsOf("client", chain, now, (certificates) => [
    ...trustFaults(certificates, cas.ca, now, cas.leftOutCa),
    ...clientPurposeFaults(certificates[0]!),
  ]);
}

/**
 * Why a client's certificate is rejected. Verifies no signatures: strangers could make that costly.
 *
 * @param isTrusted whether the TLS layer trusts its CA, or has not verified that yet
 * @param now @default {the current time}
 * @param cas CA certificates in PEM that may be why: `constraining` if a name is not acceptable,
 * `leftOut` those that the TLS layer does not get
 */
export function clientCertificateFaults(
  chain: readonly Uint8Array[] | null,
  isTrusted: boolean,
  now: Date = new Date(),
  cas: { readonly constraining?: Uint8Array; readonly leftOut?: Uint8Array } = {},
): CertificateFault[] {
  const leftOut = isTrusted ? [] : certificatesIn(cas.leftOut);
  const maxChain = leftOut.length > 0 || cas.constraining ? MAX_CHAIN : 1;
  return faultsOf("client", chain, now, (certificates) => {
    const [leaf] = certificates;
    const faults: CertificateFault[] = [];
    if (!isTrusted) {
      const ca = leftOut.find(({ subjectDer }) =>
        certificates.some(({ issuerDer }) => equals(subjectDer, issuerDer))
      );
      const reason = `certificate is issued by ${quote(leaf!.info.issuer)}`;
      faults.push(ca ? invalidCa(ca, now) : { kind: "untrusted", reason });
    } else if (cas.constraining) {
      faults.push(...violatedConstraints(certificates, certificatesIn(cas.constraining)));
    }
    return [...faults, ...clientPurposeFaults(leaf!)];
  }, maxChain);
}

function clientPurposeFaults({ servesAsClient }: Certificate): CertificateFault[] {
  const reason = "certificate is not meant for clients (extendedKeyUsage)";
  return servesAsClient ? [] : [{ kind: "purpose", reason }];
}

/** Names of the leaf that CAs above it forbid, found by their names alone. */
function violatedConstraints(chain: Certificate[], anchors: Certificate[]): CertificateFault[] {
  const leaf = chain[0]!;
  for (let current = leaf, depth = 0; depth < MAX_CHAIN; depth++) {
    const issuer = [...anchors, ...chain].find(({ subjectDer }) =>
      equals(subjectDer, current.issuerDer)
    );
    if (!issuer) break;
    const reason = violationOf(leaf, issuer);
    if (reason !== undefined) return [{ kind: "constraint", reason }];
    if (isSelfIssued(issuer)) break;
    current = issuer;
  }
  return [];
}

/**
 * Whether a server with this certificate may be called by a DNS name, or by an IP address, which
 * only alternative names of that kind match (RFC 9525, section 6.5).
 */
export function isForHost(certificate: Certificate, name: string): boolean {
  const address = ipBytes(name);
  if (address) return certificate.ipAddresses.some((bytes) => equals(unmapIp(bytes), address));
  const { hasAlternativeNames, dnsNames, commonNames } = certificate;
  return (hasAlternativeNames ? dnsNames : commonNames)
    .some((pattern) => matchesHost(pattern, name));
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
  chain: readonly Uint8Array[] | null,
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
  const at = faults[0] && AFTER.includes(faults[0].kind) ? 1 : 0;
  return faults.toSpliced(at, 0, validity);
}

function certificatesIn(ca: Uint8Array | undefined): Certificate[] {
  try {
    return pemBlocks(new TextDecoder().decode(ca))
      .filter((block) => block.label === "CERTIFICATE")
      .map((block) => readCertificate(decodeBlock(block)));
  } catch {
    return []; // then nothing is trusted, which the explanation will say
  }
}

/**
 * Why a chain does not lead to a CA, as the TLS layer judges it; undefined if it does.
 *
 * @param anchors those that are valid
 * @param leftOut CAs of the file that are not
 */
function explainTrust(
  chain: Certificate[],
  anchors: Certificate[],
  leftOut: Certificate[],
  now: Date,
): CertificateFault | undefined {
  let current = chain[0]!;
  for (let depth = 0; depth < MAX_CHAIN; depth++) {
    const here = current;
    const isSame = ({ der }: Certificate) => equals(der, here.der);
    if (isSelfIssued(here) && anchors.some(isSame)) return undefined;
    const isIssuer = (candidate: Certificate) =>
      !equals(candidate.der, here.der) && equals(candidate.subjectDer, here.issuerDer) &&
      hasSigned(candidate, here);
    if (anchors.some((anchor) => isAnchor(anchor) && isIssuer(anchor))) return undefined;
    const issuer = chain.find((candidate) => candidate.x509.ca && isIssuer(candidate));
    if (issuer === undefined) {
      const expired = leftOut.find((ca) => isSame(ca) || isIssuer(ca));
      return expired ? invalidCa(expired, now) : foreign(here, depth, anchors);
    }
    const invalid = invalidity(issuer.info, now);
    if (invalid !== undefined) {
      const isRoot = isSelfIssued(issuer);
      const subject = quote(issuer.info.subject);
      const reason = `certificate of the CA ${subject} ${invalid}`;
      return { kind: isRoot ? "untrusted" : "chain", reason };
    }
    current = issuer;
  }
  return undefined;
}

function foreign(here: Certificate, depth: number, anchors: Certificate[]): CertificateFault {
  const namesake = anchors.some((anchor) => equals(anchor.subjectDer, here.issuerDer));
  const what = depth === 0 ? "certificate" : `certificate of ${quote(here.info.subject)}`;
  const who = namesake ? "but by another CA of the same name" : "but issued by";
  const reason = `${what} is not signed by the CA, ${who} ${quote(here.info.issuer)}`;
  return { kind: "untrusted", reason };
}

/** A CA of the own file that is of no use now. */
function invalidCa({ info }: Certificate, now: Date): CertificateFault {
  const reason = `certificate of the CA ${quote(info.subject)} ${invalidity(info, now)}`;
  return { kind: "ca", reason };
}
