// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The files of this project, by their paths from its root. */
import { commandOutput } from "../../tools/command_output.ts";

export const root = new URL("../../", import.meta.url);

export function read(path: string): string {
  return Deno.readTextFileSync(new URL(path, root));
}

/** The files below a folder, which ends in a slash, whose names have one of the endings. */
export function filesBelow(folder: string, ...endings: readonly string[]): string[] {
  return Array.from(Deno.readDirSync(new URL(folder, root))).flatMap((entry) => {
    const path = `${folder}${entry.name}`;
    if (entry.isDirectory) return filesBelow(`${path}/`, ...endings);
    return endings.some((ending) => path.endsWith(ending)) ? [path] : [];
  }).sort();
}

/** What each TypeScript file of a program imports, types as well: paths, `node:` modules and packages. */
export async function importsOf(program: string): Promise<Map<string, readonly string[]>> {
  const args = ["info", "--json", program];
  const { stdout } = await commandOutput(Deno.execPath(), args, { cwd: root });
  const { modules }: Graph = JSON.parse(stdout);
  const short = (specifier: string) => specifier.replace(root.href, "");
  return new Map(
    modules
      .filter(({ specifier }) => specifier.startsWith(root.href) && /(?<!\.d)\.ts$/.test(specifier))
      .map(({ specifier, dependencies = [] }) => [
        short(specifier),
        dependencies.map(({ code, type }) => short((code ?? type)!.specifier)),
      ]),
  );
}

/** What is read here of `deno info --json`. */
interface Graph {
  readonly modules: readonly {
    readonly specifier: string;
    readonly dependencies?: readonly {
      readonly code?: { readonly specifier: string };
      readonly type?: { readonly specifier: string };
    }[];
  }[];
}
