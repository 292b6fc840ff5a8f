// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Files of certificates for the programs of one test. */
import {
  type CertificateOptions,
  createCa,
  issueCertificate,
  type Issued,
} from "../../lib/certs/issue.ts";
import type { TlsIdentity } from "../../lib/quic/mod.ts";
import { agentFlags, serverFlags } from "../../tools/project_program.ts";

const DAY_MS = 24 * 60 * 60 * 1000;

/** A time so many days from now. */
export const inDays = (days: number) => new Date(Date.now() + days * DAY_MS);

/** A folder of certificates and keys, of which every one but `other` trusts and is of one CA. */
export class CertificateFiles implements AsyncDisposable {
  readonly #ca: Issued;
  readonly path: string;

  private constructor(path: string, ca: Issued) {
    this.path = path;
    this.#ca = ca;
  }

  /** With those of `server` and `agent`, and the CAs `ca` and `other`. */
  static async create(): Promise<CertificateFiles> {
    // Valid for long, so that it does not bound what is issued.
    const ca = await createCa({ commonName: "CA", notBefore: inDays(-400) });
    const files = new CertificateFiles(await Deno.makeTempDir(), ca);
    await files.#put("ca", ca);
    await files.#put("other", await createCa({ commonName: "other CA" }));
    await files.issue("server", { usage: "server", dnsNames: ["quic-tunnel-server"] });
    await files.issue("agent");
    return files;
  }

  /** Issues one more, of an agent unless told otherwise. */
  async issue(name: string, options: Partial<CertificateOptions> = {}): Promise<void> {
    const certificate = { commonName: name, usage: "client" as const, ...options };
    await this.#put(name, await issueCertificate(this.#ca, certificate));
  }

  async #put(name: string, { certPem, keyPem }: Issued): Promise<void> {
    await Deno.writeTextFile(`${this.path}/${name}.pem`, certPem);
    await Deno.writeTextFile(`${this.path}/${name}.key`, keyPem, { mode: 0o600 });
  }

  /** The flags of a server. */
  server(name?: string, ca?: string) {
    return serverFlags(this.path, name, ca);
  }

  /** The flags of an agent. */
  agent(name = "agent", ca?: string) {
    return agentFlags(this.path, name, ca);
  }

  /** The same for a program in this process. */
  async identity(name: string, ca = "ca"): Promise<TlsIdentity> {
    const read = (file: string) => Deno.readFile(`${this.path}/${file}`);
    return {
      ca: await read(`${ca}.pem`),
      cert: await read(`${name}.pem`),
      key: await read(`${name}.key`),
    };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Deno.remove(this.path, { recursive: true });
  }
}
