// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { join } from "node:path";
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { createCa } from "../../lib/certs/issue.ts";
import { UsageError } from "../../lib/errors.ts";
import { readTlsFiles } from "../../lib/tls/files.ts";

/** Reads files of a folder, with this content. */
async function read(contents: Readonly<Record<string, string>>, names = contents) {
  const dir = await Deno.makeTempDir();
  try {
    for (const [name, content] of Object.entries(contents)) {
      await Deno.writeTextFile(join(dir, name), content);
    }
    const [caFile, certFile, keyFile] = ["ca", "cert", "key"].map((name) =>
      join(dir, name in names ? name : "missing")
    ) as [string, string, string];
    return await readTlsFiles({ caFile, caFlag: "--ca-file", certFile, keyFile });
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

Deno.test("readTlsFiles() shows no key that is given in place of a path", async () => {
  const { keyPem } = await createCa({ commonName: "test CA" });
  const [, body] = keyPem.split("\n") as [string, string];
  const values = [
    keyPem,
    keyPem.replaceAll("\n", " "),
    keyPem.split("\n").slice(1, -2).join(""),
    ` ${keyPem}`,
    `${"x/".repeat(2100)}${body}`,
    "x".repeat(256),
  ];
  for (const value of values) {
    const files = { caFile: "ca", caFlag: "--ca-file", certFile: value, keyFile: value };
    for (const given of [{ ...files, caFile: value }, files]) {
      const { message } = await assertRejects(() => readTlsFiles(given), UsageError);
      assert(!message.includes(body.slice(0, 12)) && message.length < 300, message);
    }
  }
});

Deno.test("readTlsFiles() names flag and path of a file that cannot be read", async () => {
  const all = { ca: "a", cert: "b", key: "c" };
  const flags = { ca: "--ca-file", cert: "--cert-file", key: "--cert-key" };
  for (const name of ["ca", "cert", "key"] as const) {
    const { [name]: _, ...others } = all;
    const { message } = await assertRejects(() => read(all, others), UsageError);
    assert(message.startsWith(`cannot read ${flags[name]} "`), message);
    assertStringIncludes(message, '/missing": No such file or directory');
  }
  const files = { caFile: "ca", caFlag: "--ca-file", certFile: "c", keyFile: "k" };
  for (const [path, why] of [[".", "Is a directory"], ["a\0b", "NUL"], ["x\ny", "No such file"]]) {
    const { message } = await assertRejects(
      () => readTlsFiles({ ...files, caFile: path! }),
      UsageError,
    );
    assert(message.startsWith(`cannot read --ca-file ${JSON.stringify(path)}: `), message);
    assertStringIncludes(message, why!);
    assertEquals(message.split("\n").length, 1);
  }
});

Deno.test({
  name: "readTlsFiles() says so when Deno may not read a file",
  permissions: "none",
  fn: async () => {
    const files = { caFile: "ca", caFlag: "--ca-file", certFile: "c", keyFile: "k" };
    const { message } = await assertRejects(() => readTlsFiles(files), UsageError);
    assertEquals(
      message,
      'cannot read --ca-file "ca": Deno lacks the permission --allow-read for it',
    );
  },
});

Deno.test("readTlsFiles() reads 1 MiB of a file and no more", async () => {
  const all = { ca: "a", cert: "b", key: "c" };
  const { cert } = await read({ ...all, cert: "#".repeat(1024 * 1024) });
  assertEquals([cert.flag, cert.bytes.length], ["--cert-file", 1024 * 1024]);
  const { message } = await assertRejects(
    () => read({ ...all, cert: "#".repeat(1024 * 1024 + 1) }),
    UsageError,
  );
  assertMatch(message, /^cannot read --cert-file "\S+cert": larger than 1 MiB$/);
});

Deno.test({
  name: "readTlsFiles() reads a pipe named as both certificate and key once",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    const dir = await Deno.makeTempDir();
    try {
      const [pipe, caFile] = [join(dir, "pipe"), join(dir, "ca")];
      await Deno.writeTextFile(caFile, "a CA");
      assert((await new Deno.Command("mkfifo", { args: [pipe] }).output()).success);
      // By another process: on Deno 2.7 the opening of a pipe blocks the whole program.
      const script = 'printf both > "$0"';
      const writer = new Deno.Command("sh", { args: ["-c", script, pipe] }).spawn();
      const files = { caFile, caFlag: "--ca-file", certFile: pipe, keyFile: pipe };
      const { cert, key } = await readTlsFiles(files);
      assert((await writer.status).success);
      assertEquals([cert, key].map(({ bytes }) => new TextDecoder().decode(bytes)), [
        "both",
        "both",
      ]);
      assertEquals([cert.flag, key.flag, key.isFile], ["--cert-file", "--cert-key", false]);
    } finally {
      await Deno.remove(dir, { recursive: true });
    }
  },
});
