// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Which files of a package from npm a program needs: `deno compile` by itself embeds all that there are. */

import { basename, dirname, join, relative, sep } from "node:path";

/** What can be loaded: no types, source maps, documents or data. */
const LOADABLE = /\.(?:[cm]?js|json|node)$/;
/** What has to come with the code. */
const LEGAL = /^(?:licen[cs]e|copying|notice)\b/i;
/** Fields of package.json that lead bundlers and browsers to builds of their own. */
const BUNDLER_ENTRIES = ["module", "es2015", "unpkg"];
/** Folders whose code is not for those who import the package. */
const ASIDE = new Set(["test", "tests", "example", "examples"]);

/** The files of a package. */
export interface PackageFiles {
  /** Size of the files that a program needs. */
  readonly bytes: number;
  /** Absolute paths of the others. */
  readonly excluded: readonly string[];
}

/**
 * Tells apart what a program needs of a package.
 *
 * @param folder where the package is
 * @param modules absolute paths of the modules that the program loads, if they are known: no other code is needed then
 */
export function packageFiles(folder: string, modules?: ReadonlySet<string>): PackageFiles {
  const builds = otherBuilds(folder);
  const isNeeded = (path: string): boolean => {
    const name = basename(path);
    if (builds.some((build) => path === build || path.startsWith(`${build}${sep}`))) return false;
    if (LEGAL.test(name) || name === "package.json") return true;
    if (modules !== undefined) return modules.has(path);
    const parents = relative(folder, path).split(sep).slice(0, -1);
    return LOADABLE.test(name) && !parents.some((parent) => ASIDE.has(parent));
  };
  const files = Map.groupBy(filesBelow(folder), isNeeded);
  const sizes = files.get(true)?.map((path) => Deno.statSync(path).size) ?? [];
  return {
    bytes: sizes.reduce((sum, size) => sum + size, 0),
    excluded: files.get(false) ?? [],
  };
}

/**
 * Absolute paths of files and folders that hold the same code once more, for bundlers and browsers:
 * without `exports`, Deno loads what `main` leads to.
 */
function otherBuilds(folder: string): string[] {
  const { main, exports, ...entries } = packageJson(folder);
  if (exports !== undefined || typeof main !== "string") return [];
  const own = join(folder, main);
  return BUNDLER_ENTRIES.map((name) => entries[name])
    .filter((entry) => typeof entry === "string")
    .map((entry) => join(folder, entry))
    .filter((path) => path !== own)
    .map((path) => isApart(path, own) ? dirname(path) : path);
}

/** Whether a build has a folder of its own, which the other's is not in. */
function isApart(path: string, other: string): boolean {
  return !other.startsWith(`${dirname(path)}${sep}`);
}

function packageJson(folder: string): Record<string, unknown> {
  try {
    return JSON.parse(Deno.readTextFileSync(join(folder, "package.json")));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return {};
    throw error;
  }
}

/** Absolute paths of all files below a folder; none if there is no such folder. */
function filesBelow(folder: string): string[] {
  try {
    return Array.from(Deno.readDirSync(folder)).flatMap(({ name, isDirectory }) => {
      const path = join(folder, name);
      return isDirectory ? filesBelow(path) : [path];
    });
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}
