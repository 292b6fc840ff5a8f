// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- says what works

/**
 * Tries compiled programs on the machine that they are for: each tells its version, and proxy-agent and
 * proxy-passthrough connect to proxy-server, for which the native QUIC library has to load. Where there is no
 * proxy-server, they start without one, and find none.
 *
 *     deno run --allow-read --allow-write --allow-run release/try_programs.ts dist/release v0.1.0 TARGET
 */

import { join, resolve } from "node:path";
import { makeCerts } from "../certs/make.ts";
import { ChildProgram } from "../tools/child_program.ts";
import { commandOutput } from "../tools/command_output.ts";

const TIMEOUT_MS = 60_000;
const ANY_PORT = "127.0.0.1:0";

/**
 * @param folder has `proxy-server-<tag>-<target>`, and so on
 * @throws if one of them does not do what it should
 */
export async function tryPrograms(folder: string, tag: string, target: string): Promise<void> {
  const pathOf = (name: string) =>
    resolve(folder, `${name}-${tag}-${target}${target.includes("windows") ? ".exe" : ""}`);
  await using stack = new AsyncDisposableStack();
  const certs = await Deno.makeTempDir();
  stack.defer(() => Deno.remove(certs, { recursive: true }));
  await makeCerts(certs);
  const own = (name: string) => [
    `--cert-file=${join(certs, `${name}.pem`)}`,
    `--cert-key=${join(certs, `${name}.key`)}`,
  ];

  const hasServer = await Deno.stat(pathOf("proxy-server")).then(() => true, () => false);
  const agents = ["proxy-agent", "proxy-passthrough"];
  for (const name of [...(hasServer ? ["proxy-server"] : []), ...agents]) {
    const path = pathOf(name);
    // What has been downloaded may not be run.
    if (Deno.build.os !== "windows") await Deno.chmod(path, 0o755);
    const { stdout } = await commandOutput(path, ["--version"]);
    const version = stdout.trim();
    if (!version.split(" ").includes(tag.replace(/^v/, ""))) {
      throw new Error(`${name} says version ${JSON.stringify(version)}, not ${tag}`);
    }
    console.log(`ok ${version}`);
  }

  const start = (name: string, args: readonly string[]) =>
    new ChildProgram(pathOf(name), args, { env: { NO_COLOR: "1" } });
  const more: Readonly<Record<string, string[]>> = {
    "proxy-agent": [],
    "proxy-passthrough": ["--upstream=127.0.0.1:1"],
  };
  const startAgent = (name: string, address: string) =>
    start(name, [
      `--server=${address}`,
      `--ca-file=${join(certs, "ca.pem")}`,
      ...own("client"),
      ...more[name]!,
    ]);
  if (!hasServer) {
    for (const name of agents) {
      await using agent = startAgent(name, "127.0.0.1:9");
      await agent.line(/cannot connect to the server.*no answer/, TIMEOUT_MS);
      console.log(`ok ${name} looks for a proxy-server`);
    }
    return;
  }
  const server = stack.use(
    start("proxy-server", [
      `--listen-tcp=${ANY_PORT}`,
      `--listen-quic=${ANY_PORT}`,
      `--client-ca-file=${join(certs, "ca.pem")}`,
      ...own("server"),
    ]),
  );
  const [, address] = await server.line(/quic listener on ([\d.:]+)/, TIMEOUT_MS);
  for (const name of agents) {
    await using agent = startAgent(name, address!);
    await agent.line(/connected to quic server/, TIMEOUT_MS);
    console.log(`ok ${name} has connected to proxy-server`);
  }
}

if (import.meta.main) {
  const [folder, tag, target, ...more] = Deno.args;
  if (folder === undefined || tag === undefined || target === undefined || more.length > 0) {
    console.error("Usage: release/try_programs.ts FOLDER TAG TARGET");
    Deno.exit(2);
  }
  await tryPrograms(folder, tag, target);
}
