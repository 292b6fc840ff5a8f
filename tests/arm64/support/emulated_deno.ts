// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Deno for Linux on arm64, from npm, run by QEMU with the C library of Debian: all in a folder, without root. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { commandOutput } from "../../../tools/command_output.ts";

/** The architecture that packages are downloaded for, in the folder's own state of APT. */
const DEBIAN_ARCH = "arm64";
const LIBRARIES = [`libc6:${DEBIAN_ARCH}`, `libgcc-s1:${DEBIAN_ARCH}`];

/** Time that a download may take. */
const DOWNLOAD_MS = 120_000;

/** How a program for arm64 is started. */
export interface Emulated {
  readonly command: string;
  /** Come before the arguments for Deno. */
  readonly args: readonly string[];
}

/** @throws {Error} with what it has written, if it fails or takes too long */
async function run(command: string, args: string[], cwd: string): Promise<void> {
  const signal = AbortSignal.timeout(DOWNLOAD_MS);
  const { success, stdout, stderr } = await commandOutput(command, args, { cwd, signal });
  if (!success) throw new Error(`${command} ${args.join(" ")} failed:\n${stdout}${stderr}`);
}

/**
 * Downloads and unpacks what is needed.
 *
 * @param folder exists, and has nothing in it
 */
export async function emulatedDeno(folder: string): Promise<Emulated> {
  const at = (name: string) => join(folder, name);
  const folders = ["lists/partial", "cache/archives/partial", "archives", "root", "npm"];
  for (const name of folders) await Deno.mkdir(at(name), { recursive: true });
  const apt = [
    "-qq",
    `-oDir::State::lists=${at("lists")}`,
    `-oDir::Cache=${at("cache")}`,
    `-oAPT::Architectures::=${DEBIAN_ARCH}`,
    "-oDebug::NoLocking=1",
    "-oAPT::Sandbox::User=root",
  ];
  const fromDebian = async () => {
    await run("apt-get", [...apt, "update"], folder);
    await run("apt-get", [...apt, "download", "qemu-user-static", ...LIBRARIES], at("archives"));
    for (const { name } of Deno.readDirSync(at("archives"))) {
      await run("dpkg-deb", ["--extract", join("archives", name), "root"], folder);
    }
  };
  const fromNpm = async () => {
    await run(
      "npm",
      ["pack", "--silent", `@deno/linux-arm64-glibc@${Deno.version.deno}`],
      at("npm"),
    );
    const [archive] = Array.from(Deno.readDirSync(at("npm")), ({ name }) => name);
    await run("tar", ["--extract", "--file", archive!], at("npm"));
    await Deno.chmod(at("npm/package/deno"), 0o755);
  };
  // A program that has to download packages has Deno load its own CAs, and does not start.
  const root = fileURLToPath(new URL("../../../", import.meta.url));
  const packages = () => run(Deno.execPath(), ["cache", "agent.ts", "passthrough.ts"], root);
  await Promise.all([fromDebian(), fromNpm(), packages()]);
  return {
    command: at("root/usr/bin/qemu-aarch64-static"),
    args: ["-L", at("root"), at("npm/package/deno")],
  };
}
