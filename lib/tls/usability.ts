// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { CertificateInfo } from "./certificate.ts";
import type { FileCertificate } from "./material.ts";

/** Of a file of certificates: the one that its use depends on. */
export interface FileUsability {
  /** The flag that named the file. */
  readonly flag: string;
  /** Connections cannot be made outside its validity. */
  readonly decisive: CertificateInfo;
  /** Why none can be made now, undefined if they can. */
  readonly problem: string | undefined;
}

/**
 * Whether connections can be made with the certificates of each file, and for how long.
 *
 * In `--cert-file` and `--tls-cert-file`, the own certificate decides, or the intermediate that issued it if that expires
 * first. Of a CA file, one valid certificate is enough, so the last to expire decides. Others may
 * have expired: the TLS library does not get them.
 *
 * @param certificates as in `TlsMaterial`, the own one first
 */
export function usabilityOf(
  certificates: readonly FileCertificate[],
  now: Date,
): readonly FileUsability[] {
  return [...Map.groupBy(certificates, ({ flag }) => flag)].map(([flag, group]) => {
    const infos = group.map(({ info }) => info);
    const decisive = flag.endsWith("cert-file") ? decisiveOfChain(infos) : decisiveCa(infos, now);
    return { flag, decisive, problem: problemOf(decisive, now) };
  });
}

function decisiveOfChain([own, ...others]: CertificateInfo[]): CertificateInfo {
  const issuers = others.filter(({ subject, issuer }) =>
    subject !== "" && subject === own!.issuer && subject !== issuer // peers have the roots
  );
  const issuer = lastToExpire(issuers);
  return issuer && issuer.notAfter < own!.notAfter ? issuer : own!;
}

function decisiveCa(infos: readonly CertificateInfo[], now: Date): CertificateInfo {
  return lastToExpire(infos.filter(({ notBefore }) => !(notBefore > now))) ?? lastToExpire(infos)!;
}

function lastToExpire(infos: readonly CertificateInfo[]): CertificateInfo | undefined {
  return infos.toSorted((a, b) => b.notAfter.getTime() - a.notAfter.getTime())[0];
}

function problemOf({ notBefore, notAfter }: CertificateInfo, now: Date): string | undefined {
  if (notAfter < now) return `expired at ${notAfter.toISOString()}`;
  return notBefore > now ? `is not valid before ${notBefore.toISOString()}` : undefined;
}
