// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { join } from "node:path";
import { createCa, issueCertificate, type Issued } from "../../lib/certs/issue.ts";
import type { Flags } from "../../tools/project_program.ts";

/**
 * The certificates of the programs of one site, in files that are replaced as Kubernetes does it: a link to a folder,
 * which is made to lead to another one.
 */
export class Certificates {
  readonly #folder: string;
  readonly #programs: readonly string[];
  #authorities: Issued[];
  #leaves = new Map<string, Issued>();
  #version = 0;

  private constructor(folder: string, programs: readonly string[], ca: Issued) {
    this.#folder = folder;
    this.#programs = programs;
    this.#authorities = [ca];
  }

  /** @param programs names; that of the server is `server` */
  static async create(folder: string, programs: readonly string[]): Promise<Certificates> {
    const ca = await createCa({ commonName: "chaos CA 0" });
    const certificates = new Certificates(folder, programs, ca);
    await certificates.renew();
    await certificates.write();
    return certificates;
  }

  /** The flags that name a program's files. */
  flagsOf(program: string): Flags {
    const folder = join(this.#folder, program, "current");
    return {
      [program === "server" ? "client-ca-file" : "ca-file"]: join(folder, "ca.pem"),
      "cert-file": join(folder, "tls.crt"),
      "cert-key": join(folder, "tls.key"),
    };
  }

  /** New certificates of the newest authority for all. */
  async renew(): Promise<void> {
    for (const name of this.#programs) {
      const kind = name === "server"
        ? { usage: "server" as const, dnsNames: ["quic-tunnel-server"] }
        : { usage: "client" as const, dnsNames: [name] };
      const options = { commonName: name, ...kind };
      this.#leaves.set(name, await issueCertificate(this.#authorities[0]!, options));
    }
  }

  /** A further authority that is trusted. */
  async addAuthority(): Promise<void> {
    const commonName = `chaos CA ${this.#version + 1}`;
    this.#authorities = [await createCa({ commonName }), ...this.#authorities];
  }

  /** Only the newest authority is trusted any more. */
  dropAuthorities(): void {
    this.#authorities = this.#authorities.slice(0, 1);
  }

  /** Replaces the files of all programs. */
  async write(): Promise<void> {
    const version = `v${++this.#version}`;
    const bundle = this.#authorities.map(({ certPem }) => certPem).join("");
    for (const [program, { certPem, keyPem }] of this.#leaves) {
      const folder = join(this.#folder, program, version);
      await Deno.mkdir(folder, { recursive: true });
      await Deno.writeTextFile(join(folder, "ca.pem"), bundle);
      await Deno.writeTextFile(join(folder, "tls.crt"), certPem);
      await Deno.writeTextFile(join(folder, "tls.key"), keyPem, { mode: 0o600 });
      const link = join(this.#folder, program, "next");
      await Deno.symlink(version, link);
      await Deno.rename(link, join(this.#folder, program, "current"));
    }
  }
}
