// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { X509Certificate } from "node:crypto";
import { join } from "node:path";
import {
  assert,
  assertEquals,
  assertLess,
  assertMatch,
  assertNotEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import "reflect-metadata"; // before @peculiar/x509
import * as x509 from "@peculiar/x509";
import { parse } from "yaml";
import { createCa, issueCertificate, type Issued, readCa } from "../../lib/certs/issue.ts";
import { makeCerts, makeEgressCerts, writeCerts } from "../../certs/make.ts";
import { UsageError } from "../../lib/errors.ts";
import { parseAuthority } from "../../lib/net/authority.ts";
import { describeCertificate } from "../../lib/tls/certificate.ts";
import { serverCertificateFaults } from "../../lib/tls/faults.ts";
import { readTlsFiles } from "../../lib/tls/files.ts";
import { checkTlsFiles } from "../../lib/tls/material.ts";
import { commandOutput } from "../../tools/command_output.ts";
import { inDays } from "../support/certificate_files.ts";
import { read } from "../support/repository.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

const PAIRS = ["client.key", "client.pem", "server.key", "server.pem"];
const SET = ["ca.key", "ca.pem", ...PAIRS];

function extension<T extends x509.Extension>(
  { certificate }: Issued,
  // deno-lint-ignore no-explicit-any
  type: new (...args: any[]) => T,
): T {
  const found = certificate.getExtension(type);
  assert(found !== null, `no ${type.name}`);
  return found;
}

async function inTempDir(body: (dir: string) => Promise<void>): Promise<void> {
  await using temporary = await temporaryFolder();
  const dir = temporary.path;
  await body(dir);
}

async function readSet(dir: string): Promise<Record<string, string>> {
  const read = (name: string) => Deno.readTextFile(join(dir, name)).catch(() => "missing");
  const texts = SET.map(async (name) => [name, await read(name)]);
  return Object.fromEntries(await Promise.all(texts));
}

/** Judged by the code that the programs load their files with. */
async function assertUsableSet(dir: string): Promise<void> {
  const file = (name: string) => join(dir, name);
  for (const name of ["server", "client"]) {
    const { ca, info } = checkTlsFiles(
      await readTlsFiles({
        caFile: file("ca.pem"),
        caFlag: "--ca-file",
        certFile: file(`${name}.pem`),
        keyFile: file(`${name}.key`),
      }),
    );
    const certificate = new X509Certificate(await Deno.readTextFile(file(`${name}.pem`)));
    assert(certificate.verify(new X509Certificate(new TextDecoder().decode(ca)).publicKey));
    assertEquals(info.names[0], name === "server" ? "quic-tunnel-server" : "quic-tunnel-client");
    if (name === "server") {
      const faultsFor = (name: string) => serverCertificateFaults([certificate.raw], ca, name);
      assertEquals(faultsFor("quic-tunnel-server"), []);
      assertEquals(faultsFor("localhost"), []);
    }
  }
}

async function assertKeyModes(dir: string): Promise<void> {
  if (Deno.build.os === "windows") return;
  const keys = Array.from(Deno.readDirSync(dir), ({ name }) => name)
    .filter((name) => name.endsWith(".key"));
  assert(keys.includes("ca.key"));
  for (const name of keys) {
    assertEquals((await Deno.stat(join(dir, name))).mode! & 0o777, 0o600, name);
  }
}

async function certificateIn(dir: string, file: string) {
  const { raw } = new X509Certificate(await Deno.readTextFile(join(dir, `${file}.pem`)));
  return { raw, names: describeCertificate(raw).names };
}

Deno.test("createCa() makes a root that signs end certificates only", async () => {
  const ca = await createCa({ commonName: "test CA" });
  const certificate = new X509Certificate(ca.certPem);
  assert(certificate.ca);
  assert(certificate.checkIssued(certificate));
  assert(certificate.verify(certificate.publicKey));
  assertEquals(certificate.subject, "CN=test CA");
  const constraints = extension(ca, x509.BasicConstraintsExtension);
  assertEquals([constraints.ca, constraints.pathLength, constraints.critical], [true, 0, true]);
  const usage = extension(ca, x509.KeyUsagesExtension);
  assertEquals(usage.usages, x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign);
  assert(usage.critical);
  assertEquals(
    extension(ca, x509.SubjectKeyIdentifierExtension).keyId,
    extension(ca, x509.AuthorityKeyIdentifierExtension).keyId,
  );
});

for (const usage of ["server", "client"] as const) {
  Deno.test(`issueCertificate() makes a ${usage} certificate with all its extensions`, async () => {
    const ca = await createCa({ commonName: "test CA" });
    const leaf = await issueCertificate(ca, {
      commonName: "leaf",
      usage,
      dnsNames: ["a.example", "b.example"],
      ipAddresses: ["127.0.0.1", "::1"],
    });
    const issuer = new X509Certificate(ca.certPem);
    const certificate = new X509Certificate(leaf.certPem);
    assert(!certificate.ca);
    assert(certificate.checkIssued(issuer));
    assert(certificate.verify(issuer.publicKey));
    assert(!certificate.verify(certificate.publicKey));
    const names = "DNS:a.example, DNS:b.example, IP Address:127.0.0.1, IP Address:::1";
    assertEquals(certificate.subjectAltName, names);
    const { usages } = extension(leaf, x509.KeyUsagesExtension);
    assertEquals(usages, x509.KeyUsageFlags.digitalSignature);
    const extended = x509.ExtendedKeyUsage[usage === "server" ? "serverAuth" : "clientAuth"];
    assertEquals([...extension(leaf, x509.ExtendedKeyUsageExtension).usages], [extended]);
    const [issuerId, ownId] = [ca, leaf].map((each) =>
      extension(each, x509.SubjectKeyIdentifierExtension).keyId
    );
    assertEquals(extension(leaf, x509.AuthorityKeyIdentifierExtension).keyId, issuerId);
    assertNotEquals(ownId, issuerId);
    assertMatch(leaf.keyPem, /^-----BEGIN PRIVATE KEY-----\n[^]+\n-----END PRIVATE KEY-----\n$/);
  });
}

Deno.test("issueCertificate() gives every certificate a positive 128-bit serial", async () => {
  const ca = await createCa({ commonName: "test CA" });
  const seen = new Set<string>();
  for (let i = 0; i < 20; i++) {
    const leaf = await issueCertificate(ca, { commonName: "leaf", usage: "client" });
    const der = new Uint8Array(leaf.certificate.rawData);
    const serial = BigInt(`0x${leaf.certificate.serialNumber}`);
    assert(serial > 0n && serial < 1n << 128n);
    // The serial is the INTEGER after the version: a first byte of 0x80 or more would be negative.
    const version = der.findIndex((_, at) => der[at] === 0xa0 && der[at + 1] === 3);
    assertEquals(der[version + 5], 0x02);
    assertLess(der[version + 7]!, 0x80);
    seen.add(leaf.certificate.serialNumber);
  }
  assertEquals(seen.size, 20);
});

Deno.test("issueCertificate() backdates by five minutes and does not outlive the CA", async () => {
  const notAfter = inDays(3);
  const ca = await createCa({ commonName: "test CA", notAfter });
  const leaf = await issueCertificate(ca, { commonName: "leaf", usage: "client" });
  const backdated = Date.now() - leaf.certificate.notBefore.getTime();
  assert(Math.abs(backdated - 5 * 60_000) < 60_000, `${backdated} ms`);
  assertEquals(leaf.certificate.notAfter, ca.certificate.notAfter);
});

Deno.test("issueCertificate() takes the validity it is given", async () => {
  const ca = await createCa({ commonName: "test CA" });
  const notBefore = new Date("2020-01-02T03:04:05Z");
  const notAfter = new Date("2021-01-02T03:04:05Z");
  const leaf = await issueCertificate(ca, {
    commonName: "leaf",
    usage: "server",
    notBefore,
    notAfter,
  });
  const info = describeCertificate(new Uint8Array(leaf.certificate.rawData));
  assertEquals([info.notBefore, info.notAfter], [notBefore, notAfter]);
});

Deno.test("issueCertificate() takes a common name as text, not as a distinguished name", async () => {
  const ca = await createCa({ commonName: "CA, O=x" });
  const leaf = await issueCertificate(ca, { commonName: "a+b, CN=admin=#", usage: "client" });
  assertEquals(describeCertificate(new Uint8Array(leaf.certificate.rawData)).names, [
    "a+b, CN=admin=#",
  ]);
  assert(new X509Certificate(leaf.certPem).checkIssued(new X509Certificate(ca.certPem)));
});

Deno.test("readCa() takes up a CA to issue more, and no key of another one", async () => {
  const [ca, other] = [await createCa({ commonName: "CA" }), await createCa({ commonName: "CA" })];
  const leaf = await issueCertificate(await readCa(ca.certPem, ca.keyPem), {
    commonName: "late",
    usage: "client",
  });
  const issuer = new X509Certificate(ca.certPem);
  assert(new X509Certificate(leaf.certPem).checkIssued(issuer));
  assert(new X509Certificate(leaf.certPem).verify(issuer.publicKey));
  await assertRejects(() => readCa(ca.certPem, other.keyPem), Error, "not that of the certificate");
  await assertRejects(() => readCa(ca.certPem, ""), Error);
  await assertRejects(() => readCa("", ca.keyPem), Error);
});

Deno.test("makeCerts() makes a set, with keys that are readable by the owner only", () =>
  inTempDir(async (parent) => {
    const dir = join(parent, "made", "with it");
    const result = await makeCerts(dir);
    assertEquals(result, { made: ["ca", "server", "client"], reason: "ca.pem is missing", dir });
    await assertUsableSet(dir);
    const found = Array.from(Deno.readDirSync(dir), ({ name }) => name).sort();
    assertEquals(found, [".lock.pem", ...SET]);
    await assertKeyModes(dir);
    const ca = new X509Certificate(await Deno.readTextFile(join(dir, "ca.pem")));
    assert(ca.validToDate > inDays(9 * 365), "outlives what it issues");
  }));

Deno.test("makeCerts() keeps a good set, and replaces it on demand", () =>
  inTempDir(async (dir) => {
    await makeCerts(dir);
    const before = await readSet(dir);
    assertEquals((await makeCerts(dir)).made, []);
    assertEquals(await readSet(dir), before);
    assertEquals((await makeCerts(dir, { force: true })).reason, "requested with --force");
    const after = await readSet(dir);
    for (const name of SET) assertNotEquals(after[name], before[name]);
    await assertUsableSet(dir);
  }));

Deno.test("makeCerts() issues anew what has less than 30 days left", () =>
  inTempDir(async (dir) => {
    await makeCerts(dir);
    const before = await readSet(dir);
    const at = async (days: number) => {
      const { made, reason } = await makeCerts(dir, { now: inDays(days) });
      return made.length > 0 && reason;
    };
    const both = (fault: string) => `server.pem ${fault}, client.pem ${fault}`;
    assertEquals(await at(334), false);
    assertEquals(await at(336), both("expires within 30 days"));
    assertEquals(await at(366), both("has expired"));
    const after = await readSet(dir);
    for (const name of PAIRS) assertNotEquals(after[name], before[name]);
    assertEquals([after["ca.pem"], after["ca.key"]], [before["ca.pem"], before["ca.key"]]);
    await assertUsableSet(dir);
    assertEquals(await at(-1), "ca.pem is not valid yet");
    assertEquals(await at(10 * 365 + 1), "ca.pem has expired");
    await assertUsableSet(dir);
  }));

Deno.test("makeCerts() keeps a set without the CA's key, which it needs to issue more", () =>
  inTempDir(async (dir) => {
    await makeCerts(dir);
    await Deno.rename(join(dir, "ca.key"), join(dir, "away.key"));
    assertEquals((await makeCerts(dir)).made, []);
    const issue = () => makeCerts(dir, { agentNames: ["node-1.example"] });
    const wording = "node-1.example.pem is missing; ca.key in";
    await assertRejects(issue, UsageError, wording);
    const other = await createCa({ commonName: "quic-reverse-http-tunnel development CA" });
    await Deno.writeTextFile(join(dir, "ca.key"), other.keyPem);
    await assertRejects(issue, UsageError, "not that of the certificate. Put it back");
    await Deno.rename(join(dir, "away.key"), join(dir, "ca.key"));
    const { made, reason } = await issue();
    assertEquals([made, reason], [["node-1.example"], "node-1.example.pem is missing"]);
    assertEquals((await issue()).made, []);
    await assertUsableSet(dir);
    await assertKeyModes(dir);
    const { names } = await certificateIn(dir, "node-1.example");
    assertEquals(names, ["node-1.example"]);
  }));

Deno.test("makeCerts() refuses names of agents that are not names of files, or are taken", () =>
  inTempDir(async (dir) => {
    for (const name of ["../x", ".", ".x", "a/b", "", "ca", "server", "client", "a b"]) {
      await assertRejects(
        async () => await makeCerts(dir, { agentNames: [name] }),
        UsageError,
        `--agent-name "${name}" cannot be`,
      );
    }
    assertEquals([...Deno.readDirSync(dir)], []);
  }));

Deno.test("makeEgressCerts() makes what kube-apiserver and the server need of each other", () =>
  inTempDir(async (dir) => {
    const make = (address: string) => makeEgressCerts(dir, parseAuthority(address));
    assertEquals((await make("proxy-server.quic-tunnel.svc:8131")).made, [
      "ca",
      "server",
      "client",
    ]);
    await assertKeyModes(dir);
    const ca = await Deno.readFile(join(dir, "ca.pem"));
    const server = await certificateIn(dir, "server");
    for (const name of ["proxy-server.quic-tunnel.svc", "localhost"]) {
      assertEquals(serverCertificateFaults([server.raw], ca, name), []);
    }
    assertEquals((await certificateIn(dir, "client")).names, ["kube-apiserver"]);
    const { egressSelections: [tls, ...others] } = parse(
      await Deno.readTextFile(join(dir, "egress-tls.yaml")),
    );
    assertEquals(others, []);
    assertEquals(tls, {
      name: "cluster",
      connection: {
        proxyProtocol: "HTTPConnect",
        transport: {
          tcp: {
            url: "https://proxy-server.quic-tunnel.svc:8131",
            tlsConfig: {
              caBundle: "/etc/kubernetes/egress/ca.crt",
              clientCert: "/etc/kubernetes/egress/tls.crt",
              clientKey: "/etc/kubernetes/egress/tls.key",
            },
          },
        },
      },
    });
    const socket = parse(await Deno.readTextFile(join(dir, "egress-socket.yaml")));
    const { apiVersion, kind, egressSelections: [{ name, connection }] } = socket;
    assertEquals([apiVersion, kind, name], [
      "apiserver.k8s.io/v1beta1",
      "EgressSelectorConfiguration",
      "cluster",
    ]);
    assertEquals(connection, {
      proxyProtocol: "HTTPConnect",
      transport: { uds: { udsName: "/run/quic-tunnel/egress.sock" } },
    });

    const page = read("docs/kubernetes.md");
    for (const file of ["egress-tls.yaml", "egress-socket.yaml"]) {
      assertStringIncludes(page, await Deno.readTextFile(join(dir, file)), file);
    }

    // Another address: the server's certificate changes, what kube-apiserver has stays.
    const client = await Deno.readTextFile(join(dir, "client.pem"));
    const moved = await make("[fd00:0::1]:443");
    assertEquals([moved.made, moved.reason], [["server"], "server.pem is not for fd00::1"]);
    assertEquals(await Deno.readTextFile(join(dir, "client.pem")), client);
    assertEquals((await make("[fd00:0::1]:443")).made, []);
    assertMatch(
      await Deno.readTextFile(join(dir, "egress-tls.yaml")),
      /^ +url: https:\/\/\[fd00:0::1\]:443$/m,
    );
  }));

const damages: [string, (file: (name: string) => string) => Promise<void>, string[], string][] = [
  ["a missing key", (file) => Deno.remove(file("client.key")), ["client"], "client.key is missing"],
  [
    "a key of another certificate",
    (file) => Deno.copyFile(file("client.key"), file("server.key")),
    ["server"],
    "server.key is not the key of server.pem",
  ],
  [
    "garbage",
    (file) => Deno.writeTextFile(file("client.pem"), "x"),
    ["client"],
    "client.pem is invalid",
  ],
  [
    "an empty key",
    (file) => Deno.writeTextFile(file("server.key"), ""),
    ["server"],
    "server.key is invalid",
  ],
  [
    "a CA that is garbage",
    (file) => Deno.writeTextFile(file("ca.pem"), "x"),
    ["ca", "server", "client"],
    "ca.pem is invalid",
  ],
  [
    "another CA of the same name",
    async (file) => {
      const ca = await createCa({ commonName: "quic-reverse-http-tunnel development CA" });
      await Deno.writeTextFile(file("ca.pem"), ca.certPem);
      await Deno.writeTextFile(file("ca.key"), ca.keyPem);
    },
    ["server", "client"],
    "server.pem is not issued by the CA in ca.pem, client.pem is not issued by the CA in ca.pem",
  ],
  [
    "a server certificate for another name",
    async (file) => {
      const read = (name: string) => Deno.readTextFile(file(name));
      const ca = await readCa(await read("ca.pem"), await read("ca.key"));
      const leaf = await issueCertificate(ca, {
        commonName: "x",
        usage: "server",
        dnsNames: ["localhost"],
      });
      await Deno.writeTextFile(file("server.pem"), leaf.certPem);
      await Deno.writeTextFile(file("server.key"), leaf.keyPem);
    },
    ["server"],
    "server.pem is not for quic-tunnel-server",
  ],
];
for (const [what, damage, made, reason] of damages) {
  Deno.test(`makeCerts() repairs a set with ${what}, and keeps the rest`, () =>
    inTempDir(async (dir) => {
      await makeCerts(dir);
      await damage((name) => join(dir, name));
      const before = await readSet(dir);
      assertEquals(await makeCerts(dir), { made, reason, dir });
      const after = await readSet(dir);
      for (const name of SET) {
        assertEquals(after[name] !== before[name], made.includes(name.split(".")[0]!), name);
      }
      await assertUsableSet(dir);
    }));
}

Deno.test("makeCerts() does not trust what a run that died left behind", () =>
  inTempDir(async (dir) => {
    const elsewhere = join(dir, "elsewhere");
    await Deno.writeTextFile(join(dir, ".new-server.pem"), "x", { mode: 0o644 });
    if (Deno.build.os !== "windows") await Deno.symlink(elsewhere, join(dir, ".new-server.key"));
    await makeCerts(dir);
    await assertUsableSet(dir);
    await assertRejects(() => Deno.stat(elsewhere), Deno.errors.NotFound);
  }));

Deno.test("makeCerts() run many times at once makes one set", () =>
  inTempDir(async (dir) => {
    const results = await Promise.all(Array.from({ length: 6 }, () => makeCerts(dir)));
    assertEquals(results.filter(({ made }) => made.length > 0).length, 1);
    await assertUsableSet(dir);
  }));

Deno.test("makeCerts() gives up on a lock that stays taken", () =>
  inTempDir(async (dir) => {
    using held = await Deno.open(join(dir, ".lock.pem"), { create: true, write: true });
    await held.lock(true);
    await assertRejects(
      () => makeCerts(dir, { lockTimeoutMs: 120 }),
      Error,
      "another run has held it for 120 ms",
    );
    held.unlockSync();
    assertEquals((await makeCerts(dir)).made, ["ca", "server", "client"]);
  }));

Deno.test("writeCerts() writes a set that ends when it is told, and none where one is", () =>
  inTempDir(async (dir) => {
    const notAfter = new Date(Math.ceil(Date.now() / 1_000) * 1_000 + 3_600_000);
    await writeCerts(dir, { notAfter });
    await assertUsableSet(dir);
    const found = Array.from(Deno.readDirSync(dir), ({ name }) => name).sort();
    assertEquals(found, ["ca.pem", ...PAIRS]);
    const ends = ["ca", "server", "client"].map((name) =>
      new X509Certificate(Deno.readTextFileSync(join(dir, `${name}.pem`))).validToDate
    );
    assertEquals(ends, [notAfter, notAfter, notAfter]);
    await assertRejects(() => writeCerts(dir), Deno.errors.AlreadyExists);
  }));

async function runMake(...args: string[]) {
  const root = join(import.meta.dirname!, "../..");
  const dir = args[args.indexOf("--dir") + 1]!;
  const permissions = [`--allow-read=${dir}`, `--allow-write=${dir}`];
  const config = ["--config", join(root, "deno.json")];
  const program = join(root, "certs", "make.ts");
  const words = ["run", "--no-prompt", ...config, ...permissions, program, ...args];
  const { code, stdout, stderr } = await commandOutput(Deno.execPath(), words);
  return { code, stdout, stderr };
}

Deno.test("certs/make.ts needs its directory only, and three at once make one set", () =>
  inTempDir(async (dir) => {
    const runs = await Promise.all(Array.from({ length: 3 }, () => runMake("--dir", dir)));
    assertEquals(runs.map(({ code, stderr }) => [code, stderr]), [[0, ""], [0, ""], [0, ""]]);
    const first = runs.map(({ stdout }) => stdout.split(" ")[0]).sort();
    assertEquals(first, ["Created", "Kept", "Kept"]);
    await assertUsableSet(dir);
    assertEquals(await runMake("--quiet", "--dir", dir), { code: 0, stdout: "", stderr: "" });
    const more = await runMake("--dir", dir, "--agent-name=a", "--egress=localhost:8131");
    assertEquals([more.code, more.stderr], [0, ""]);
    assertStringIncludes(more.stdout, `Created a.pem in ${dir}: a.pem is missing.`);
    assertStringIncludes(more.stdout, `Created ca.pem, server.pem, client.pem in ${dir}/egress: `);
    for (const args of [["--bogus"], ["--egress=localhost"], ["--agent-name=a/b"]]) {
      const wrong = await runMake("--dir", dir, ...args);
      assertEquals(wrong.code, 2, args[0]);
      assertStringIncludes(wrong.stderr, args[0]!.split("=").at(-1)!);
    }
  }));
