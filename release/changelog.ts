// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- prints what it has found

/**
 * Prints the section of CHANGELOG.md for a version, as the text of its release:
 * `deno run --allow-read=CHANGELOG.md release/changelog.ts 0.1.0`.
 */

/**
 * What a changelog says of a version, without the heading. Paragraphs and list items are one line each, as GitHub shows
 * line breaks in the text of a release.
 *
 * @throws if there is no such section, or nothing in it
 */
export function sectionOf(changelog: string, version: string): string {
  const [, ...sections] = changelog.split(/^## /m);
  const section = sections.find((text) => text.startsWith(`[${version}]`));
  if (section === undefined) throw new Error(`CHANGELOG.md has no section [${version}]`);
  const text = section
    .replace(/^.*\n/, "")
    .replace(/^\[[^\]]+\]: .*$/gm, "") // the targets of links, at the end of the file
    .replace(/(\S)\n *(?=[^\s#*-])/g, "$1 ")
    .trim();
  if (text === "") throw new Error(`CHANGELOG.md has nothing about ${version}`);
  return text;
}

if (import.meta.main) {
  const [version, ...more] = Deno.args;
  if (version === undefined || more.length > 0) {
    console.error("Usage: release/changelog.ts VERSION");
    Deno.exit(2);
  }
  try {
    console.log(sectionOf(await Deno.readTextFile("CHANGELOG.md"), version));
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    Deno.exit(1);
  }
}
