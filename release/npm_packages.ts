// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { Buffer } from "node:buffer";
import { join } from "node:path";
import { commandOutput } from "../tools/command_output.ts";

const root = join(import.meta.dirname!, "..");

/** A package from npm that is part of the programs. */
export interface NpmPackage {
  readonly name: string;
  readonly version: string;
  /** Of the package's archive, in hexadecimal digits. */
  readonly sha512: string;
  /** SPDX expression. */
  readonly license: string;
  /** What it imports, as keys `name@version`. */
  readonly dependencies: readonly string[];
  /** Imported by the programs themselves. */
  readonly direct: boolean;
  /** Holds native code, for one platform. */
  readonly native: boolean;
  /** Its folder in Deno's cache, which is missing for packages of other platforms. */
  readonly folder: string;
  /** The Rust crates that native code is made of, if it comes with its sources. */
  readonly cargoLock?: string;
}

/** What is used of `deno info --json`. */
interface ModuleGraph {
  readonly modules: readonly { readonly npmPackage?: string }[];
  readonly npmPackages: Readonly<Record<string, GraphPackage>>;
}

interface GraphPackage {
  readonly name: string;
  readonly version: string;
  readonly dependencies: readonly string[];
  /** Where it is, or would be: those for other platforms are not there. */
  readonly localPath: string;
}

/** What is used of `deno.lock`. */
interface Lock {
  readonly npm: Readonly<Record<string, { readonly integrity: string; readonly os?: string[] }>>;
}

/**
 * The packages that programs import, and those that these need in turn, for all platforms.
 *
 * @param programs files, relative to the root of the project
 * @returns by `name@version`, in this order
 */
export async function npmPackagesOf(
  programs: readonly string[],
): Promise<Map<string, NpmPackage>> {
  await deno("cache", "--quiet", ...programs);
  const graphs = await Promise.all(
    programs.map(async (program): Promise<ModuleGraph> =>
      JSON.parse(await deno("info", "--json", program))
    ),
  );
  const lock: Lock = JSON.parse(await Deno.readTextFile(join(root, "deno.lock")));
  const packages = new Map<string, NpmPackage>();

  const add = async (key: string, graph: ModuleGraph, wantedBy?: NpmPackage): Promise<void> => {
    if (packages.has(key)) return;
    const { name, version, dependencies, localPath } = graph.npmPackages[key]!;
    const locked = lock.npm[key];
    if (!locked) throw new Error(`${key} is not in deno.lock`);
    // A package for another platform is not at hand. It is under the licence of the one that it is a part of.
    const text = await readIfThere(join(localPath, "package.json"));
    const license = text === undefined ? wantedBy?.license : JSON.parse(text).license;
    if (typeof license !== "string") throw new Error(`${key} names no licence`);
    const cargoLock = await readIfThere(join(localPath, "Cargo.lock"));
    const found: NpmPackage = {
      name,
      version,
      sha512: sha512Of(locked.integrity),
      license,
      dependencies,
      direct: wantedBy === undefined,
      native: locked.os !== undefined,
      folder: localPath,
      ...(cargoLock !== undefined && { cargoLock }),
    };
    packages.set(key, found);
    for (const dependency of dependencies) await add(dependency, graph, found);
  };
  for (const graph of graphs) {
    const direct = graph.modules.flatMap(({ npmPackage }) => npmPackage ?? []);
    for (const key of direct) await add(key, graph);
  }
  return new Map([...packages].sort(([a], [b]) => a < b ? -1 : 1));
}

/** Runs Deno in the root of the project, and gives its output. */
async function deno(...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await commandOutput(Deno.execPath(), args, { cwd: root });
  if (!success) throw new Error(`deno ${args.join(" ")} failed:\n${stderr}`);
  return stdout;
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

function sha512Of(integrity: string): string {
  const [algorithm, hash] = integrity.split("-");
  if (algorithm !== "sha512") throw new Error(`not a SHA-512: ${integrity}`);
  return Buffer.from(hash!, "base64").toString("hex");
}
