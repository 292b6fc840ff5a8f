// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertThrows } from "@std/assert";
import { UsageError } from "../../lib/errors.ts";
import { parseCommandLine } from "../../tools/command_line.ts";

function test(name: string, fn: () => void): void {
  Deno.test({ name: `parseCommandLine() ${name}`, permissions: "none", fn });
}

const parse = (...args: string[]) =>
  parseCommandLine(args, { text: ["dir"], list: ["target"], switches: ["quiet"] });

test("gives each kind of flag its value, and one to those that are not given", () => {
  const none = { dir: undefined, target: [], quiet: false, help: false };
  assertEquals({ ...none, ...parse() }, none);
  assertEquals(parse("--dir", "a", "--target=1", "--quiet", "--target", "x=y", "--dir=-b"), {
    dir: "-b",
    target: ["1", "x=y"],
    quiet: true,
    help: false,
  });
  assertEquals(parse("--help").help, true);
});

test("names all arguments that it does not know", () => {
  for (
    const args of [["--dirr=x"], ["-q"], ["--no-quiet"], ["file"], ["-"], ["--__proto__=x"]]
  ) {
    const refused = () => parse("--quiet", ...args);
    assertThrows(refused, UsageError, `unknown arguments: ${args.join(" ")}`);
  }
  assertThrows(() => parse("a", "--", "--dir"), UsageError, "unknown arguments: a --dir");
});

test("names the flag that lacks its value, or is given one", () => {
  for (const args of [["--dir"], ["--dir="], ["--dir", "--quiet"]]) {
    assertThrows(() => parse(...args), UsageError, "--dir needs a value");
  }
  assertThrows(() => parse("--target=a", "--target"), UsageError, "--target needs a value");
  assertThrows(() => parse("--quiet=no"), UsageError, "--quiet takes no value");
});
