// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Root directories as the images have them, without a container engine. */
import { fileURLToPath } from "node:url";
import { makeCerts } from "../../../certs/make.ts";
import { ChildProgram } from "../../../tools/child_program.ts";
import { commandOutput } from "../../../tools/command_output.ts";
import { flagArguments } from "../../../tools/project_program.ts";
import { type Stage, stagesOf } from "./dockerfile.ts";

/** What the programs need of the images' base, of which there is much more. */
const BASE_PACKAGES = ["libc6", "libgcc-s1", "ca-certificates"];
/** The user `nonroot` of the base. */
const NONROOT = 65_532;
/** Where the build stage has the project. */
const BUILD_ROOT = "/src/";

const project = new URL("../../../", import.meta.url);

/** The images, in the order of the `Dockerfile`. */
export const images: readonly Stage[] = stagesOf(
  Deno.readTextFileSync(new URL("Dockerfile", project)),
)
  .filter(({ name }) => name !== "build");

/** @throws {Error} with what it has written, if it fails */
async function run(command: string, args: string[], cwd?: string): Promise<void> {
  const { success, stderr } = await commandOutput(command, args, cwd === undefined ? {} : { cwd });
  if (!success) throw new Error(`${command} ${args.join(" ")}: ${stderr}`);
}

/** Root directories, which are gone after the disposal. */
export class ImageRoots implements AsyncDisposable {
  private constructor(readonly dir: string) {}

  /** Unpacks the base once, and makes a root of it for each image, with certificates in `/certs`. */
  static async make(): Promise<ImageRoots> {
    const roots = new ImageRoots(await Deno.makeTempDir());
    const [base, certs] = [`${roots.dir}/base`, `${roots.dir}/certs`];
    await Promise.all([Deno.mkdir(base), Deno.mkdir(`${roots.dir}/packages`)]);
    await run("apt-get", ["download", "-q", ...BASE_PACKAGES], `${roots.dir}/packages`);
    for (const { name } of Deno.readDirSync(`${roots.dir}/packages`)) {
      await run("dpkg", ["--extract", `${roots.dir}/packages/${name}`, base]);
    }
    // What every container engine mounts, and where the secrets of the programs are mounted.
    for (const mountPoint of ["proc", "certs"]) await Deno.mkdir(`${base}/${mountPoint}`);
    await makeCerts(certs);
    for (const { name, isFile } of Deno.readDirSync(certs)) {
      if (isFile) await Deno.copyFile(`${certs}/${name}`, `${base}/certs/${name}`);
    }
    await run("chown", ["-R", `${NONROOT}`, `${base}/certs`]);
    for (const { name, copies } of images) {
      await run("cp", ["--archive", base, roots.of(name)]);
      for (const { files: [file], to } of copies) {
        const from = fileURLToPath(new URL(file!.slice(BUILD_ROOT.length), project));
        await Deno.copyFile(from, roots.of(name) + to);
      }
    }
    return roots;
  }

  of(image: string): string {
    return `${this.dir}/${image}`;
  }

  /**
   * Starts the program of an image: as its user, with an empty environment, in a root that is writable to nobody but for
   * a `/tmp` with `tmp`, and is not writable at all otherwise.
   *
   * @param before commands of the shell that starts it
   */
  start(
    image: string,
    flags: Record<string, string | number>,
    { tmp = false, before = "" } = {},
  ): ChildProgram {
    const root = this.of(image);
    const { entrypoint } = images.find(({ name }) => name === image)!;
    const script = `
      mount --bind "$0" "$0" && cd "$0" && mount -t proc proc proc
      ${tmp ? "mkdir -p -m 1777 tmp" : `rm -rf tmp && mount -o remount,bind,ro "$0"`}
      ${before}
      exec /usr/bin/env -i "$(command -v chroot)" --userspec=${NONROOT}:${NONROOT} "$0" "$@"`;
    return new ChildProgram("unshare", [
      "--mount",
      "sh",
      "-ec",
      script,
      root,
      ...entrypoint,
      ...flagArguments(flags),
    ]);
  }

  /** All files in the root of an image, but for those of `/proc`. */
  async filesOf(image: string): Promise<string> {
    const args = [this.of(image), "-xdev", "-printf", "%P %s %T@\n"];
    return (await commandOutput("find", args)).stdout;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.dir, { recursive: true });
  }
}
