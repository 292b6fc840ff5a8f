// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Which files of a package from npm a program needs: `deno compile` by itself embeds all that there are. */

import { basename, join, relative, sep } from "node:path";

/** What can be loaded: no types, source maps, documents or data. */
const LOADABLE = /\.(?:[cm]?js|json|node)$/;
/** What has to come with the code. */
const LEGAL = /^(?:licen[cs]e|copying|notice)\b/i;
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
  const isNeeded = (path: string): boolean => {
    const name = basename(path);
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
