// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { X509Certificate } from "node:crypto";
import { join } from "node:path";
import { makeCerts } from "../../lib/certs/make_certs.ts";
import { keepSet } from "../../lib/certs/certificate_set.ts";
import { tunnelSet } from "../../lib/certs/tunnel_set.ts";
import { UsageError } from "../../lib/errors.ts";
import { describeCertificate, readCertificate } from "../../lib/tls/certificate.ts";
import { readTlsFiles } from "../../lib/tls/files.ts";
import { checkTlsFiles } from "../../lib/tls/material.ts";
import { inDays } from "../support/certificate_files.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

const DEFAULTS = {
  certNames: [],
  agentNames: [],
  certDays: 365,
  listenQuic: { hostname: "", port: 8888 },
};

/** Runs the command in a folder, and gives its report. */
async function run(dir: string, values: Partial<Parameters<typeof makeCerts>[0]> = {}) {
  const lines: string[] = [];
  await makeCerts({ ...DEFAULTS, makeCerts: dir, ...values }, (line) => lines.push(line));
  return lines.join("\n");
}

const readText = (...path: string[]) => Deno.readTextFile(join(...path));
const namesOf = async (...path: string[]) =>
  describeCertificate(new X509Certificate(await readText(...path)).raw).names;

Deno.test("makeCerts() makes a set for two machines, and says how it is used", async () => {
  await using folder = await temporaryFolder();
  const dir = join(folder.path, "certs");
  const report = await run(dir, { certNames: ["proxy.example", "192.0.2.1"] });
  assertMatch(report, /^Created ca.pem, server.pem, agent.pem in .*\nca.key .* off the server\./);
  assertStringIncludes(report, `--cert-file=${dir}/server.pem --cert-key=${dir}/server.key`);
  assertStringIncludes(report, `--server=proxy.example:8888 --ca-file=${dir}/ca.pem`);
  assertEquals((await Deno.stat(join(dir, "ca.key"))).mode! & 0o777, 0o600);
  const names = await namesOf(dir, "server.pem");
  assertEquals(names, ["quic-tunnel-server", "proxy.example", "192.0.2.1"]);
  for (const name of ["server", "agent"]) {
    const [certFile, keyFile] = [join(dir, `${name}.pem`), join(dir, `${name}.key`)];
    const files = { caFile: join(dir, "ca.pem"), caFlag: "--ca-file", certFile, keyFile };
    assert(checkTlsFiles(await readTlsFiles(files)));
  }
});

Deno.test("makeCerts() keeps what is there, adds agents, and needs ca.key for that alone", async () => {
  await using folder = await temporaryFolder();
  const dir = folder.path;
  await run(dir, { agentNames: ["node-1"] });
  const before = await readText(dir, "server.pem");
  assertMatch(await run(dir), /^Kept the certificates in /);
  assertMatch(await run(dir, { agentNames: ["node-2"] }), /^Created node-2.pem in /);
  assertEquals(await readText(dir, "server.pem"), before);
  assertEquals(await namesOf(dir, "node-2.pem"), ["node-2"]);
  await Deno.remove(join(dir, "ca.key"));
  assertMatch(await run(dir, { agentNames: ["node-1", "node-2"] }), /^Kept/);
  const added = run(dir, { agentNames: ["node-3"] });
  await assertRejects(() => added, UsageError, "ca.key");
});

Deno.test("makeCerts() leaves a CA alone that it cannot keep", async () => {
  await using folder = await temporaryFolder();
  const dir = folder.path;
  await run(dir);
  const key = await readText(dir, "ca.key");
  for (const damage of ["damaged", undefined]) {
    if (damage) await Deno.writeTextFile(join(dir, "ca.pem"), damage);
    else await Deno.remove(join(dir, "ca.pem"));
    await assertRejects(() => run(dir), UsageError, "put back the ca.pem and ca.key");
    assertEquals(await readText(dir, "ca.key"), key);
  }
});

Deno.test("makeCerts() refuses names that are none, and bundles that would not work", async () => {
  await using folder = await temporaryFolder();
  const dir = join(folder.path, "none");
  for (
    const [values, message] of [
      [{ certNames: ["a b"] }, '--cert-name "a b": a character that is not allowed in host names'],
      [{ agentNames: ["../x"] }, '--agent-name "../x" cannot be the name of a file'],
      [{ agentNames: ["ca"] }, '--agent-name "ca" cannot be the name of a file'],
      [{ agentNames: ["*.x"] }, "cannot be the name of a file"],
      [{ bundle: "x" }, "--bundle needs --cert-name"],
      [{ bundle: "x", certNames: ["a"], agentNames: ["b", "c"] }, "--bundle is for one agent"],
    ] as const
  ) {
    await assertRejects(() => run(dir, values), UsageError, message);
  }
  await assertRejects(() => Deno.stat(dir), Deno.errors.NotFound);
});

Deno.test("makeCerts() writes a bundle that an agent can use alone, for its owner only", async () => {
  await using folder = await temporaryFolder();
  const dir = folder.path;
  const bundle = join(dir, "node-1.join");
  await Deno.writeTextFile(bundle, "", { mode: 0o644 });
  const values = { certNames: ["::1"], agentNames: ["node-1"], bundle };
  assertStringIncludes(await run(dir, values), `\n  proxy-agent --join=${bundle}`);
  assertEquals((await Deno.stat(bundle)).mode! & 0o777, 0o600);
  const contents = await readTlsFiles({ bundle });
  assertEquals(contents.server, { hostname: "::1", port: 8888 });
  assertEquals(checkTlsFiles(contents).info.names, ["node-1"]);

  const [, string] = /QRHT_JOIN=(\S+) proxy-agent$/.exec(
    await run(dir, { ...values, bundle: "-" }),
  )!;
  const ofString = await readTlsFiles({ bundle: string! });
  assertEquals(checkTlsFiles(ofString).info, checkTlsFiles(contents).info);
  // It cannot change while the program runs.
  assertEquals(await readTlsFiles({ bundle: string! }, ofString), ofString);
});

Deno.test("makeCerts() prints command lines that a shell takes as they are", async () => {
  await using folder = await temporaryFolder();
  const dir = join(folder.path, `a b'c"$HOME`);
  await Deno.mkdir(dir);
  const values = { certNames: ["a"], agentNames: ["node-1"], bundle: join(dir, "a &b") };
  const report = `${await run(dir, values)}\n${await run(dir, { ...values, bundle: undefined })}`;
  const lines = report.split("\n").filter((line) => line.startsWith("  proxy-"));
  const script = `set -- ${lines.map((line) => line.trim()).join(" ")}; printf '%s\\n' "$@"`;
  const { stdout } = await new Deno.Command("sh", { args: ["-c", script] }).output();
  const words = new TextDecoder().decode(stdout).split("\n");
  assert(words.includes(`--cert-key=${dir}/server.key`), report);
  assert(words.includes(`--join=${dir}/a &b`), report);
  assert(words.includes(`--cert-key=${dir}/node-1.key`), report);
});

Deno.test("makeCerts() replaces nothing by a bundle but a bundle, and at once", async () => {
  await using folder = await temporaryFolder();
  const dir = folder.path;
  const values = { certNames: ["a"], agentNames: ["node-1"] };
  const bundle = join(dir, "node-1.join");
  await run(dir, { ...values, bundle });
  const before = await readText(bundle);
  await Deno.symlink(bundle, join(dir, "link"));
  await Deno.mkdir(join(dir, "folder"));
  for (const name of ["ca.key", "server.pem", "link", "folder"]) {
    const { ino } = await Deno.lstat(join(dir, name));
    const refused = run(dir, { ...values, bundle: join(dir, name) });
    await assertRejects(() => refused, UsageError, "is no bundle, and is left alone");
    assertEquals((await Deno.lstat(join(dir, name))).ino, ino);
  }
  assertEquals(await readText(bundle), before);
  await run(dir, { ...values, bundle, certNames: ["b"] });
  assertStringIncludes(await readText(bundle), "Server: b:8888");
  assertEquals((await Array.fromAsync(Deno.readDir(dir))).filter((e) => /new/.test(e.name)), []);
});

Deno.test("makeCerts() runs several times at once, with one bundle", async () => {
  await using folder = await temporaryFolder();
  const dir = folder.path;
  const bundle = join(dir, "node-1.join");
  await Promise.all(
    Array.from({ length: 8 }, () => run(dir, { certNames: ["a"], agentNames: ["node-1"], bundle })),
  );
  assertEquals(checkTlsFiles(await readTlsFiles({ bundle })).info.names, ["node-1"]);
});

Deno.test("keepSet() renews what expires within 30 days, also what it was not asked for", async () => {
  await using folder = await temporaryFolder();
  const dir = folder.path;
  const set = (serverNames: string[], agentNames: string[]) =>
    tunnelSet({ serverNames, agentNames, validDays: 90 });
  await keepSet(dir, set(["a.example", "192.0.2.1"], ["node-1"]));
  await keepSet(dir, set([], ["node-2"]));
  assertEquals((await keepSet(dir, set([], []), { now: inDays(59) })).made, []);
  const { made } = await keepSet(dir, set(["b.example"], []), { now: inDays(61) });
  assertEquals(made.toSorted(), ["node-1", "node-2", "server"]);
  const names = await namesOf(dir, "server.pem");
  assertEquals(names, ["quic-tunnel-server", "b.example", "a.example", "192.0.2.1"]);
  assertEquals(await namesOf(dir, "node-1.pem"), ["node-1"]);
  const { validToDate } = new X509Certificate(await readText(dir, "node-2.pem"));
  assertEquals(Math.round((validToDate.getTime() - Date.now()) / (24 * 60 * 60 * 1_000)), 90);
});

Deno.test("keepSet() renews a server's certificate that it does not name as one of a server", async () => {
  await using folder = await temporaryFolder();
  const dir = folder.path;
  const set = tunnelSet({ serverNames: [], agentNames: ["node-1"], validDays: 90 });
  const front = { file: "front", commonName: "f", usage: "server", dnsNames: ["f"] } as const;
  await keepSet(dir, { ...set, certificates: [...set.certificates, front] });
  const { made } = await keepSet(dir, set, { now: inDays(61) });
  assertEquals(made.toSorted(), ["front", "node-1", "server"]);
  const usage = async (file: string) => {
    const read = readCertificate(new X509Certificate(await readText(dir, file)).raw);
    return [read.servesAsServer, read.servesAsClient];
  };
  assertEquals(await usage("front.pem"), [true, false]);
  assertEquals(await usage("node-1.pem"), [false, true]);
});
