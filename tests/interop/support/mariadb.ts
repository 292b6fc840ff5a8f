// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { temporaryFolder } from "../../support/temporary_folder.ts";
import { run } from "./programs.ts";
import { freePort, Service } from "./service.ts";

/** Starts a MariaDB server with no data yet, whose user `root` needs no password. */
export async function startMariaDbServer(
  ...flags: string[]
): Promise<AsyncDisposable & { readonly port: number }> {
  await using stack = new AsyncDisposableStack();
  const { path: dir } = stack.use(await temporaryFolder());
  const data = ["--no-defaults", `--datadir=${dir}/data`];
  if (Deno.uid() === 0) data.push("--user=root");
  await run("mariadb-install-db", [
    ...data,
    "--auth-root-authentication-method=normal",
    "--skip-test-db",
  ]);
  const port = freePort();
  stack.use(
    await Service.start("mariadbd", [
      ...data,
      ...flags,
      "--bind-address=127.0.0.1",
      `--port=${port}`,
      `--socket=${dir}/socket`,
      `--pid-file=${dir}/pid`,
      "--skip-name-resolve",
      "--proxy-protocol-networks=127.0.0.1", // from there, a PROXY header is read where there is one
    ], port),
  );
  const rest = stack.move();
  return { port, [Symbol.asyncDispose]: () => rest.disposeAsync() };
}
