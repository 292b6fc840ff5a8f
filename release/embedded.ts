// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What `deno compile` says that it has embedded in a program. */

/** A file or folder of the listing. */
export interface Embedded {
  /** Path from the root of what is embedded; a folder of which all is embedded ends in a slash and a star. */
  readonly path: string;
  readonly bytes: number;
}

const UNITS: Readonly<Record<string, number>> = { B: 1, KB: 1024, MB: 1024 ** 2, GB: 1024 ** 3 };

/** A line of the tree: what leads to it (two characters for each level, and two more), its name, and its size. */
const LINE = /^([│├└─┬ ]+)([^│├└─┬ ].*?)(?: \((\d+(?:\.\d+)?)(B|KB|MB|GB)(?: - .*)?\))?$/;

/**
 * Reads the tree in the output of `deno compile`, without colours.
 *
 * @returns its leaves, in their order
 * @throws {Error} when there is none, or one in another form
 */
export function parseEmbedded(output: string): readonly Embedded[] {
  const lines = output.split("\n");
  const title = lines.indexOf("Embedded Files");
  if (title < 0) throw new Error("deno compile has not listed what it has embedded");
  // An empty line, the name of the program, and the tree up to the next empty line.
  const tree = lines.slice(title + 3);
  const end = tree.indexOf("");
  const entries = tree.slice(0, end < 0 ? undefined : end).map((line) => {
    const [, lead, name, size, unit] = LINE.exec(line) ?? [];
    if (!lead || !name) throw new Error(`deno compile lists files in an unknown form: "${line}"`);
    const bytes = size === undefined ? 0 : Number(size) * UNITS[unit!]!;
    return { level: lead.length / 2 - 1, name, bytes };
  });
  const way: string[] = [];
  return entries.flatMap(({ level, name, bytes }, i) => {
    way.length = level - 1;
    way.push(name);
    const isFolder = (entries[i + 1]?.level ?? 0) > level;
    return isFolder ? [] : [{ path: way.join("/"), bytes }];
  });
}

/** Where `deno compile` puts packages. */
const PACKAGES = ".deno_compile_node_modules/localhost/";

/** The name of the npm package that a path is of: `@std/assert`; undefined for a file of the project. */
export function packageOf(path: string): string | undefined {
  if (!path.startsWith(PACKAGES)) return undefined;
  return /^(?:@[^/]+\/)?[^/]+/.exec(path.slice(PACKAGES.length))?.[0];
}
