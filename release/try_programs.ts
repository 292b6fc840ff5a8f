// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- says what works

/**
 * Tries compiled programs on the machine that they are for: each tells its version, and proxy-agent and
 * proxy-passthrough connect to proxy-server, for which the native QUIC library has to load.
 *
 *     deno run --allow-read --allow-write --allow-run release/try_programs.ts dist/release v0.1.0 TARGET
 */

import { join } from "node:path";
import { deadline } from "@std/async/deadline";
import { makeCerts } from "../certs/make.ts";

const TIMEOUT_MS = 60_000;
const ANY_PORT = "127.0.0.1:0";

/**
 * @param folder has `proxy-server-<tag>-<target>`, and so on
 * @throws if one of them does not do what it should
 */
export async function tryPrograms(folder: string, tag: string, target: string): Promise<void> {
  const pathOf = (name: string) =>
    join(folder, `${name}-${tag}-${target}${target.includes("windows") ? ".exe" : ""}`);
  await using stack = new AsyncDisposableStack();
  const certs = await Deno.makeTempDir();
  stack.defer(() => Deno.remove(certs, { recursive: true }));
  await makeCerts(certs);
  const own = (name: string) => [
    `--cert-file=${join(certs, `${name}.pem`)}`,
    `--cert-key=${join(certs, `${name}.key`)}`,
  ];

  for (const name of ["proxy-server", "proxy-agent", "proxy-passthrough"]) {
    const path = pathOf(name);
    // What has been downloaded may not be run.
    if (Deno.build.os !== "windows") await Deno.chmod(path, 0o755);
    const { stdout } = await new Deno.Command(path, { args: ["--version"] }).output();
    const version = new TextDecoder().decode(stdout).trim();
    if (!version.split(" ").includes(tag.replace(/^v/, ""))) {
      throw new Error(`${name} says version ${JSON.stringify(version)}, not ${tag}`);
    }
    console.log(`ok ${version}`);
  }

  const server = stack.use(
    new Program(pathOf("proxy-server"), [
      `--listen-tcp=${ANY_PORT}`,
      `--listen-quic=${ANY_PORT}`,
      `--client-ca-file=${join(certs, "ca.pem")}`,
      ...own("server"),
    ]),
  );
  const address = await server.logs(/quic listener on ([\d.:]+)/);
  const more = { "proxy-agent": [], "proxy-passthrough": ["--upstream=127.0.0.1:1"] };
  for (const [name, args] of Object.entries(more)) {
    await using agent = new Program(pathOf(name), [
      `--server=${address}`,
      `--ca-file=${join(certs, "ca.pem")}`,
      ...own("client"),
      ...args,
    ]);
    await agent.logs(/(connected to quic server)/);
    console.log(`ok ${name} has connected to proxy-server`);
  }
}

/** A program that runs; it is ended when this is disposed of. */
class Program implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #log: ReadableStreamDefaultReader<string>;
  readonly #path: string;
  #text = "";

  constructor(path: string, args: string[]) {
    this.#path = path;
    this.#process = new Deno.Command(path, {
      args,
      env: { NO_COLOR: "1" },
      stdout: "null",
      stderr: "piped",
    }).spawn();
    this.#log = this.#process.stderr.pipeThrough(new TextDecoderStream()).getReader();
  }

  /** Waits for a line of its log, and gives what the pattern's first group matched. */
  async logs(pattern: RegExp): Promise<string> {
    const look = async (): Promise<string> => {
      for (;;) {
        const found = pattern.exec(this.#text)?.[1];
        if (found !== undefined) return found;
        const { value, done } = await this.#log.read();
        if (done) throw new Error("it has ended");
        this.#text += value;
      }
    };
    try {
      return await deadline(look(), TIMEOUT_MS);
    } catch (cause) {
      throw new Error(`${this.#path} does not log ${pattern}, only:\n${this.#text}`, { cause });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#process.kill("SIGKILL");
    } catch {
      // It has ended on its own.
    }
    await this.#process.status;
    await this.#log.cancel();
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
