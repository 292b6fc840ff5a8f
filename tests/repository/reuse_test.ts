// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * What `reuse lint` checks (https://reuse.software, version 3.3 of the specification), as far as this project makes use
 * of it: every file says in its first lines, or REUSE.toml says for it, who has the copyright and under which licence.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { parse } from "@std/toml/parse";
import { commandOutput } from "../../tools/command_output.ts";
import { read, root } from "../support/repository.ts";

const COPYRIGHT = "the quic-reverse-http-tunnel authors";
const LICENSE = "Apache-2.0";
/** Lines at the top of a file that the header is looked for in: there may be a `#!` before it. */
const HEADER_LINES = 4;

interface Terms {
  readonly copyright: readonly string[];
  readonly license: readonly string[];
}

/** An entry of REUSE.toml. */
interface Annotation {
  readonly path: string | readonly string[];
  readonly "SPDX-FileCopyrightText": string;
  readonly "SPDX-License-Identifier": string;
}

/** What git tracks, or would track; without git, what looks like it. */
async function filesOfProject(): Promise<string[]> {
  const paths = await gitFiles() ?? filesBelow("");
  return paths.filter((path) => Deno.lstatSync(new URL(path, root)).isFile).sort();
}

async function gitFiles(): Promise<string[] | undefined> {
  const list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
  try {
    const args = ["-c", "safe.directory=*", ...list];
    const { success, stdout } = await commandOutput("git", args, { cwd: root });
    return success ? stdout.split("\0").filter(isThere) : undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

function isThere(path: string): boolean {
  try {
    return path !== "" && Deno.lstatSync(new URL(path, root)) !== undefined;
  } catch {
    return false; // removed, but not yet from git
  }
}

function filesBelow(folder: string): string[] {
  const generated = /^(?:\.git|node_modules|dist|coverage|\.run-.*|.*\.(?:pem|key))$/;
  return [...Deno.readDirSync(new URL(folder, root))]
    .filter(({ name }) => !generated.test(name))
    .flatMap(({ name, isDirectory }) =>
      isDirectory ? filesBelow(`${folder}${name}/`) : `${folder}${name}`
    );
}

/** All that a text says after an SPDX tag, without what ends a comment. */
function tagged(tag: string, text: string): string[] {
  const line = new RegExp(`SPDX-${tag}:[ \\t]*(.*?)[ \\t]*(?:\\*/|-->|\\}\\})?[ \\t]*$`, "gm");
  return Array.from(text.matchAll(line), ([, value]) => value!);
}

function termsIn(text: string): Terms {
  return {
    copyright: tagged("FileCopyrightText", text),
    license: tagged("License-Identifier", text),
  };
}

/** Whether a path is one of those that REUSE.toml means: `*` is a part of a name, `**` any number of folders. */
function matches(glob: string, path: string): boolean {
  const pattern = glob.replace(/\*\*|\*|[^\w/]/g, (part) => {
    if (part === "**") return ".*";
    return part === "*" ? "[^/]*" : `\\${part}`;
  });
  return new RegExp(`^${pattern}$`).test(path);
}

/** Texts of licences need none themselves, nor does what is empty. */
const isExempt = (path: string) =>
  path.startsWith("LICENSES/") || /(?:^|\/)(?:LICENSE|COPYING)[^/]*$/.test(path) ||
  Deno.statSync(new URL(path, root)).size === 0;

const files = await filesOfProject();
const licensed = files.filter((path) => !isExempt(path) && !path.endsWith(".license"));
const { version, annotations, ...unknown } = parse(read("REUSE.toml")) as {
  readonly version: number;
  readonly annotations: readonly Annotation[];
};
const globsOf = ({ path }: Annotation) => [path].flat();

/** By its header, by the file beside it that is there for that, or by REUSE.toml. */
function termsOf(path: string): Terms {
  if (files.includes(`${path}.license`)) return termsIn(read(`${path}.license`));
  const header = termsIn(read(path).split("\n", HEADER_LINES).join("\n"));
  if (header.license.length > 0) return header;
  const annotation = annotations.findLast((each) =>
    globsOf(each).some((glob) => matches(glob, path))
  );
  return {
    copyright: [annotation?.["SPDX-FileCopyrightText"] ?? "nobody"],
    license: [annotation?.["SPDX-License-Identifier"] ?? "none"],
  };
}

function test(name: string, fn: () => void): void {
  Deno.test({ name: `REUSE: ${name}`, permissions: { read: true }, fn });
}

test("the test sees the files, and what they say", () => {
  for (const path of ["server.ts", ".ci/run", "deno.lock", "tests/repository/reuse_test.ts"]) {
    assert(licensed.includes(path), path);
  }
  assertEquals(termsIn("<!-- SPDX-" + "License-Identifier: MIT -->\n"), {
    copyright: [],
    license: ["MIT"],
  });
  const paths = ["a.json", "b/a.json", "b/c/a.json", "ajson"];
  assertEquals(paths.filter((path) => matches("*.json", path)), ["a.json"]);
  assertEquals(paths.filter((path) => matches("b/**", path)), ["b/a.json", "b/c/a.json"]);
});

test("every file has a copyright and a licence", () => {
  const terms: Terms = { copyright: [COPYRIGHT], license: [LICENSE] };
  const wrong = licensed.filter((path) => JSON.stringify(termsOf(path)) !== JSON.stringify(terms));
  assertEquals(wrong, []);
});

test("no file names another licence further down", () => {
  const wrong = licensed.filter((path) =>
    termsIn(read(path)).license.some((license) => license !== LICENSE)
  );
  assertEquals(wrong, []);
});

test("LICENSES/ has the licences that are used, and no others", () => {
  const texts = files.filter((path) => path.startsWith("LICENSES/"));
  assertEquals(texts, [`LICENSES/${LICENSE}.txt`]);
  assertEquals(read(texts[0]!), read("LICENSE"));
  assertMatch(read("LICENSE"), /Apache License\s+Version 2\.0/);
});

test("REUSE.toml has nothing that this test does not understand, or that is of no use", () => {
  assertEquals([version, Object.keys(unknown)], [1, []]);
  for (const annotation of annotations) {
    assertEquals(Object.keys(annotation).sort(), [
      "SPDX-FileCopyrightText",
      "SPDX-License-Identifier",
      "path",
    ]);
  }
  const unused = annotations.flatMap(globsOf)
    .filter((glob) => !licensed.some((path) => matches(glob, path)));
  assertEquals(unused, []);
});
