// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { join } from "node:path";
import { assertRejects } from "@std/assert";
import { version } from "../../lib/version.ts";
import { tryPrograms } from "../../release/try_programs.ts";

const root = join(import.meta.dirname!, "../..");
const TARGET = "some-target";

/** Scripts in place of compiled programs. */
class Programs implements AsyncDisposable {
  readonly folder = Deno.makeTempDirSync();

  add(name: string, script: string): void {
    const path = join(this.folder, `proxy-${name}-v${version}-${TARGET}`);
    Deno.writeTextFileSync(path, `#!/bin/sh\n${script}\n`);
  }

  /** A script that runs a program from its source. */
  addSource(name: string, args = ""): void {
    const env = "QRHT_*,DENO_CERT,DENO_TLS_CA_STORE,NODE_EXTRA_CA_CERTS";
    const flags = `--no-prompt --no-check --allow-net --allow-read --allow-ffi --allow-env=${env}`;
    this.add(
      name,
      `export DENO_NO_UPDATE_CHECK=1\nexec '${Deno.execPath()}' run ${flags} '${
        join(root, `${name}.ts`)
      }' ${args} "$@"`,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.folder, { recursive: true });
  }
}

Deno.test("tryPrograms() is content with programs that work", async () => {
  await using programs = new Programs();
  for (const name of ["server", "agent", "passthrough"]) programs.addSource(name);
  await tryPrograms(programs.folder, `v${version}`, TARGET);
});

Deno.test("tryPrograms() is content with agents that look for a server, where there is no server", async () => {
  await using programs = new Programs();
  for (const name of ["agent", "passthrough"]) programs.addSource(name, "--quic-library=deno");
  await tryPrograms(programs.folder, `v${version}`, TARGET);
});

Deno.test("tryPrograms() rejects with the log of a program that does not start", async () => {
  await using programs = new Programs();
  const old = `[ "$1" = --version ] && echo proxy-x ${version} && exit 0`;
  programs.add("server", `${old}\necho no library for this machine >&2; exit 1`);
  for (const name of ["agent", "passthrough"]) programs.add(name, old);
  await assertRejects(
    () => tryPrograms(programs.folder, `v${version}`, TARGET),
    Error,
    "no library for this machine",
  );
});

Deno.test("tryPrograms() rejects a program of another version", async () => {
  await using programs = new Programs();
  programs.add("server", "echo proxy-server 0.0.1");
  await assertRejects(
    () => tryPrograms(programs.folder, `v${version}`, TARGET),
    Error,
    'proxy-server says version "proxy-server 0.0.1"',
  );
});
