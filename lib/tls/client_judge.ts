// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Which clients a TLS listener admits: those whose certificate `node:tls` has verified, and whose
 * certificate or session does not use what it lets pass.
 */
import { createHash } from "node:crypto";
import type { TlsIdentity } from "../quic/mod.ts";
import { listNames, readCertificate } from "./certificate.ts";
import { type CertificateFault, clientCertificateFaults, verifiedClientFaults } from "./faults.ts";
import { peerNamesOf } from "./peer_name.ts";
import type { Presented } from "./tls_carrier.ts";

/** A client is not admitted. */
export class ClientRefusedError extends Error {
  override readonly name = "ClientRefusedError";
  readonly #faults: () => readonly CertificateFault[];

  /**
   * @param names those in a certificate of which none is admitted
   * @param faults finds what is wrong with the certificate, which may be costly
   */
  constructor(
    message: string,
    readonly names?: string,
    faults: () => readonly CertificateFault[] = () => [],
  ) {
    super(message);
    this.#faults = faults;
  }

  get faults(): readonly CertificateFault[] {
    return this.#faults();
  }
}

/** Certificates of which it is known that they were verified. */
const MAX_VERIFIED = 10_000;

type Cas = Pick<TlsIdentity, "ca" | "leftOutCa">;

/** Judges the clients of one listener. */
export class ClientJudge {
  readonly #names: readonly string[];
  readonly #now: () => Date;
  /** Digests of leaves that `node:tls` has verified since this process began. */
  readonly #verified = new Set<string>();

  /**
   * @param names patterns of admitted names, as in `--client-name`; if empty, all are
   * @param now @default {the clock's time}
   */
  constructor(names: readonly string[], now: () => Date = () => new Date()) {
    this.#names = names;
    this.#now = now;
  }

  /**
   * Judges a client.
   *
   * @param cas CA certificates in use
   * @returns its name in its certificate
   * @throws {ClientRefusedError} when it is not admitted
   */
  judge(presented: Presented, cas: Cas): string {
    const { leaf } = presented;
    this.#checkCertificate(presented, cas);
    const { name, names, isAllowed } = peerNamesOf(leaf!, this.#names);
    if (isAllowed) return name;
    throw new ClientRefusedError("no name in the certificate is admitted", listNames(names));
  }

  #checkCertificate({ leaf, chain, isVerified, isResumed }: Presented, cas: Cas): void {
    const now = this.#now();
    const refuse = (faults: () => readonly CertificateFault[]) => {
      throw new ClientRefusedError("the certificate is not accepted", undefined, faults);
    };
    if (!leaf) return refuse(() => clientCertificateFaults(null, false));
    if (!isVerified) {
      const presented = chain();
      return refuse(() => {
        const faults = verifiedClientFaults(presented, cas, now);
        return faults.length > 0 ? faults : useFaults(leaf);
      });
    }
    const digest = createHash("sha256").update(leaf).digest("base64");
    // A session outlives the CA, and begins even if the certificate is refused.
    const faults = !isResumed
      ? [
        ...clientCertificateFaults([leaf], true, now),
        ...versionFaults(leaf),
        ...commonNameFaults(leaf, chain, cas, now),
      ]
      : this.#verified.has(digest)
      ? verifiedClientFaults(chain(), cas, now)
      : [UNKNOWN_SESSION];
    if (faults.length > 0) return refuse(() => faults);
    this.#verified.delete(digest);
    this.#verified.add(digest);
    if (this.#verified.size > MAX_VERIFIED) {
      this.#verified.delete(this.#verified.values().next().value!);
    }
  }
}

const UNKNOWN_SESSION: CertificateFault = {
  kind: "untrusted",
  reason: "the certificate of the resumed session has never been verified",
};

/**
 * `node:tls` verifies no signature of a client with a certificate of another version, and takes any
 * certificate that is in the CA file: everybody has that of an old CA, and needs no key for it.
 */
function versionFaults(leaf: Uint8Array): CertificateFault[] {
  if (readCertificate(leaf).isVersion3) return [];
  return [{ kind: "version", reason: "certificate is not of version 3 (X.509)" }];
}

/**
 * `node:tls` holds name constraints of CAs against alternative names only: by a common name, such a
 * CA could let anybody in.
 */
function commonNameFaults(
  leaf: Uint8Array,
  chain: Presented["chain"],
  { ca: constraining }: Cas,
  now: Date,
): CertificateFault[] {
  if (readCertificate(leaf).hasAlternativeNames) return [];
  return clientCertificateFaults(chain(), true, now, { constraining })
    .filter(({ kind }) => kind === "constraint");
}

/** What `node:tls` refuses in addition: a CA as a client. */
function useFaults(leaf: Uint8Array): CertificateFault[] {
  if (!readCertificate(leaf).x509.ca) return [];
  return [{ kind: "purpose", reason: "certificate is that of a CA, not of a client" }];
}
