// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { UsageError } from "../../lib/errors.ts";
import {
  decodeBundleString,
  formatBundle,
  formatBundleString,
  isBundleString,
  parseBundle,
} from "../../lib/tls/bundle.ts";
import { readTlsFiles } from "../../lib/tls/files.ts";
import { toPem } from "../../lib/tls/pem.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

const pem = (label: string) => new TextDecoder().decode(toPem(label, new Uint8Array(99)));
const bundle = {
  server: { hostname: "proxy.example", port: 8888 },
  identity: pem("CERTIFICATE") + pem("PRIVATE KEY"),
  ca: pem("CERTIFICATE"),
};

Deno.test("parseBundle() reads what formatBundle() and formatBundleString() write", () => {
  assertEquals(parseBundle(formatBundle(bundle)), bundle);
  assertEquals(parseBundle(formatBundle(bundle).replaceAll("\n", "\r\n")).server, bundle.server);
  const string = formatBundleString(bundle);
  assert(isBundleString(string) && /^[\w:-]+$/.test(string));
  assertEquals(parseBundle(decodeBundleString(string)), bundle);
  const pasted = string.replace(/.{76}/g, "$&\r\n");
  for (const arrived of [`  ${string}\n`, `"${string}"`, `'${string}'`, pasted]) {
    assert(isBundleString(arrived), arrived);
    assertEquals(parseBundle(arrived), bundle);
  }
  const server = { hostname: "qrht-agent", port: 8888 };
  assertEquals(parseBundle(formatBundle({ ...bundle, server })).server, server);
});

Deno.test("parseBundle() says what is missing, and quotes nothing of a secret", () => {
  const text = formatBundle(bundle);
  for (
    const [damaged, message] of [
      ["", "there is no line with the server's address"],
      [text.replace(/^Server.*\n/m, ""), "there is no line with the server's address"],
      [text.replaceAll("PRIVATE KEY", "PRIVATE CAT"), "there is no private key"],
      [text.replace(":8888", ":x"), "the port is not a number"],
    ] as const
  ) {
    const error = assertThrows(() => parseBundle(damaged), UsageError, message);
    assert(!error.message.includes("AAAA"), error.message);
  }
  const string = formatBundleString(bundle);
  for (
    const damaged of [
      string.slice(0, 200),
      `${string}!`,
      `"${string}`,
      "qrht-agent:",
      "qrht-agent:_w",
    ]
  ) {
    const error = assertThrows(
      () => parseBundle(decodeBundleString(damaged)),
      UsageError,
      "--join",
    );
    assert(!error.message.includes(damaged.slice(11, 31) || "never"), error.message);
  }
});

Deno.test("parseBundle() judges any text without another error", () => {
  const parts = fc.array(
    fc.oneof(
      fc.constantFrom("Server: a:1\n", "Server: @\n", pem("PRIVATE KEY"), pem("CERTIFICATE"), "\n"),
      fc.string(),
    ),
    { maxLength: 6 },
  );
  fc.assert(fc.property(parts, (parts) => {
    try {
      parseBundle(parts.join(""));
    } catch (error) {
      assert(error instanceof UsageError, `${error}`);
    }
  }));
});

Deno.test("readTlsFiles() reads a bundle again, and tells who may read it", async () => {
  await using folder = await temporaryFolder();
  const path = `${folder.path}/agent.join`;
  await Deno.writeTextFile(path, formatBundle(bundle), { mode: 0o644 });
  await Deno.chmod(path, 0o644);
  const before = await readTlsFiles({ bundle: path });
  assertEquals([before.key.isPublic, before.key.givenWith], [true, "--join"]);
  const server = { hostname: "192.0.2.1", port: 1 };
  await Deno.writeTextFile(path, formatBundle({ ...bundle, server }));
  assertEquals((await readTlsFiles({ bundle: path }, before)).server, server);
});
