// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import {
  type CertificateOptions,
  createCa,
  issueCertificate,
  type Issued,
} from "../../lib/certs/issue.ts";
import type { TlsIdentity } from "../../lib/quic/mod.ts";
import type { FileContent } from "../../lib/tls/files.ts";

const encoder = new TextEncoder();

/** Certificates of one CA, in memory. */
export class TestCa {
  private constructor(readonly ca: Issued) {}

  static async create(commonName = "test CA"): Promise<TestCa> {
    return new TestCa(await createCa({ commonName }));
  }

  get pem(): Uint8Array {
    return encoder.encode(this.ca.certPem);
  }

  /** A server's identity, named `quic-tunnel-server` unless told otherwise; it trusts clients of `trusts`. */
  server(options: Partial<CertificateOptions> = {}, trusts: TestCa = this): Promise<TlsIdentity> {
    return this.#identity({
      commonName: "server",
      usage: "server",
      dnsNames: ["quic-tunnel-server"],
      ...options,
    }, trusts);
  }

  /** A client's identity; it trusts servers of `trusts`. */
  client(options: Partial<CertificateOptions> = {}, trusts: TestCa = this): Promise<TlsIdentity> {
    return this.#identity({
      commonName: "agent-1",
      usage: "client",
      dnsNames: ["agent-1"],
      ...options,
    }, trusts);
  }

  async #identity(options: CertificateOptions, trusts: TestCa): Promise<TlsIdentity> {
    const { certPem, keyPem } = await issueCertificate(this.ca, options);
    return { ca: trusts.pem, cert: encoder.encode(certPem), key: encoder.encode(keyPem) };
  }
}

/** What was read from a file that this flag named. */
export function fileContent(
  flag: string,
  content: string | Uint8Array,
  path = flag,
): FileContent {
  const bytes = typeof content === "string" ? encoder.encode(content) : content;
  return { flag, path, bytes, isFile: true };
}
