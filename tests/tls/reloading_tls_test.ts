// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { join } from "node:path";
import { assert, assertEquals, assertMatch, assertRejects, assertStrictEquals } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { createCa, issueCertificate, type Issued } from "../../lib/certs/issue.ts";
import { UsageError } from "../../lib/errors.ts";
import type { TlsMaterial } from "../../lib/tls/material.ts";
import { ReloadingTls } from "../../lib/tls/reloading_tls.ts";
import { eventually } from "../support/eventually.ts";
import { logLines } from "../support/network.ts";

const STUCK_MS = 15_000;
const DAY_MS = 24 * 60 * 60 * 1000;

const ca = await createCa({ commonName: "test CA" });
const otherCa = await createCa({ commonName: "other CA" });
const issue = (commonName: string, days = 365, from = Date.now() - DAY_MS) =>
  issueCertificate(ca, {
    commonName,
    usage: "client",
    notBefore: new Date(from),
    notAfter: new Date(from + days * DAY_MS),
  });
const [first, second, third] = [await issue("first"), await issue("second"), await issue("third")];

type Contents = Partial<Record<"ca" | "cert" | "key", string>>;

const setOf = ({ certPem, keyPem }: Issued): Contents => ({ cert: certPem, key: keyPem });

/** The files of a program. */
class Files implements AsyncDisposable {
  private constructor(readonly dir: string) {}

  /** A good set, unless told otherwise. */
  static async create(contents: Contents = {}): Promise<Files> {
    const files = new Files(await Deno.makeTempDir());
    await files.write({ ca: ca.certPem, ...setOf(first), ...contents });
    return files;
  }

  path(name: string): string {
    return join(this.dir, name);
  }

  /** Each file at once, but one after the other. */
  async write(contents: Contents): Promise<void> {
    for (const [name, text] of Object.entries(contents)) {
      await Deno.writeTextFile(this.path("new"), text, { mode: 0o600 });
      await Deno.rename(this.path("new"), this.path(name));
    }
  }

  load(now?: () => Date): Promise<ReloadingTls> {
    const files = {
      caFile: this.path("ca"),
      caFlag: "--ca-file",
      certFile: this.path("cert"),
      keyFile: this.path("key"),
    };
    return ReloadingTls.load(files, now && { now });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Deno.remove(this.dir, { recursive: true });
  }
}

/** A watch at short intervals, which ends with the disposal. */
function watch(tls: ReloadingTls) {
  const stop = new AbortController();
  let hangup = () => {};
  const watching = tls.watch({
    signal: stop.signal,
    onHangup: (listener) => hangup = listener,
    intervalMs: 2,
  });
  return {
    hangUp: () => hangup(),
    [Symbol.asyncDispose]: () => {
      stop.abort();
      return deadline(watching, STUCK_MS);
    },
  };
}

/** A clock that tells how often it has been looked at: that is at least once for each look at the files. */
function clock() {
  const clock = {
    looks: 0,
    at: new Date(),
    now: () => {
      clock.looks++;
      return clock.at;
    },
    /** Waits until the files have been looked at as often as this, from beginning to end. */
    passed: (count: number) => {
      const until = clock.looks + 2 * count + 2;
      return eventually(`${count} looks`, () => clock.looks >= until, STUCK_MS);
    },
  };
  return clock;
}

const subjectOf = (tls: ReloadingTls) => tls.current.info.subject;

/** Lines that say what has become of the files, without their time. */
function outcomes(lines: readonly string[]): string[] {
  return lines
    .filter((line) => / tls "certificates (?:reloaded|not reloaded|unchanged)"/.test(line))
    .map((line) => line.replace(/^\S+ /, ""));
}

const count = (lines: readonly string[], text: string) =>
  lines.filter((line) => line.includes(text)).length;

/** Registers a test with a good set of files that was loaded, its log lines and its clock. */
function test(name: string, fn: (loaded: Loaded) => Promise<void> | void): void {
  Deno.test(`ReloadingTls ${name}`, async () => {
    using lines = logLines(4);
    await using files = await Files.create();
    const time = clock();
    const tls = await files.load(time.now);
    await fn({ lines, files, time, tls, before: tls.current });
  });
}

interface Loaded {
  readonly lines: string[];
  readonly files: Files;
  readonly time: ReturnType<typeof clock>;
  readonly tls: ReloadingTls;
  /** What is in use from the start. */
  readonly before: TlsMaterial;
}

Deno.test("ReloadingTls load() throws what is wrong with the files", async () => {
  await using files = await Files.create({ key: second.keyPem });
  const error = await assertRejects(() => files.load(), UsageError);
  assertMatch(error.message, /^--cert-key ".*key" does not match the certificate in/);
});

test("reload() replaces the whole set, and says by what", async ({ lines, files, tls, before }) => {
  await files.write({ ca: otherCa.certPem, ...setOf(second) });
  assertStrictEquals(tls.current, before);
  await tls.reload();
  assertEquals(subjectOf(tls), "CN=second");
  assertEquals(new TextDecoder().decode(tls.current.ca).trim(), otherCa.certPem.trim());
  const { fingerprint256, notAfter } = tls.current.info;
  assertEquals(outcomes(lines), [
    `INF tls "certificates reloaded" subject="CN=second" names=second fingerprint=${fingerprint256} ` +
    `notAfter=${notAfter.toISOString().slice(0, 19)}Z certificates=2`,
  ]);
});

test("reload() keeps what has not changed, and says so", async ({ lines, files, tls, before }) => {
  await files.write(setOf(first));
  await tls.reload();
  assertStrictEquals(tls.current, before);
  assertMatch(outcomes(lines).join("\n"), /^INF tls "certificates unchanged" subject="CN=first"/);
});

test("reload() serves all who ask at a time by two readings at most", async ({ lines, tls }) => {
  await Promise.all(Array.from({ length: 100 }, () => tls.reload()));
  assertEquals(outcomes(lines).length, 1);
  const begun = tls.reload();
  await Promise.resolve().then(() => Promise.resolve());
  await Promise.all([begun, tls.reload(), tls.reload()]);
  assertEquals(outcomes(lines).length, 3);
});

interface BadSet {
  make(files: Files): Promise<void>;
  readonly fault: RegExp;
}

const replace = async (path: string, make: () => Promise<unknown>) => {
  await Deno.remove(path);
  await make();
};

const badSets: Record<string, BadSet> = {
  "with the key of another certificate": {
    make: (files) => files.write({ key: second.keyPem }),
    fault: /--cert-key .* does not match the certificate in --cert-file/,
  },
  "of which a file is missing": {
    make: (files) => Deno.remove(files.path("key")),
    fault: /cannot read --cert-key .*: No such file or directory/,
  },
  "of which a file has become a folder": {
    make: (files) => replace(files.path("ca"), () => Deno.mkdir(files.path("ca"))),
    fault: /cannot read --ca-file .*: no longer a regular file/,
  },
  "of which a file is a link to itself": {
    make: (files) => replace(files.path("ca"), () => Deno.symlink("ca", files.path("ca"))),
    fault: /cannot read --ca-file .*: .*symbolic links/,
  },
};

for (const [which, { make, fault }] of Object.entries(badSets)) {
  test(`refuses a set ${which}, once, and takes the next good one`, async ({ lines, files, time, tls, before }) => {
    {
      await make(files);
      await using _watching = watch(tls);
      await eventually("it is refused", () => outcomes(lines).length > 0);
      await time.passed(3);
      assertStrictEquals(tls.current, before);
    }
    const [refused, ...more] = outcomes(lines);
    assertEquals(more, []);
    assertMatch(refused!, /^ERR tls "certificates not reloaded" error=/);
    assertMatch(refused!.replaceAll("\\", ""), fault);

    for (const name of ["ca", "cert", "key"]) {
      await Deno.remove(files.path(name), { recursive: true }).catch(() => {});
    }
    await files.write({ ca: ca.certPem, ...setOf(second) });
    await tls.reload();
    assertEquals(subjectOf(tls), "CN=second");
    // No line shows a part of a key.
    for (const { keyPem } of [first, second]) {
      const secrets = keyPem.split("\n").filter((line) => line !== "" && !line.includes("-----"));
      assertEquals(secrets.filter((secret) => lines.join("").includes(secret)), []);
    }
  });
}

test("does not complain about a set that is complete a moment later", async ({ lines, files, time, tls }) => {
  await files.write({ cert: second.certPem });
  const seen = time.looks;
  const reloading = tls.reload();
  await eventually("the set has been looked at", () => time.looks > seen);
  await files.write(setOf(second));
  await deadline(reloading, STUCK_MS);
  assertEquals(subjectOf(tls), "CN=second");
  assertEquals(outcomes(lines).length, 1, lines.join("\n"));
  assertMatch(outcomes(lines)[0]!, /^INF tls "certificates reloaded"/);
});

test("says each time why it refuses a set when asked for it", async ({ lines, files, tls }) => {
  await files.write({ key: second.keyPem });
  await tls.reload();
  await tls.reload();
  assertEquals(count(outcomes(lines), "not reloaded"), 2);
});

test("says so when what it refused is gone again", async ({ lines, files, tls, before }) => {
  await using _watching = watch(tls);
  await files.write({ key: second.keyPem });
  await eventually("it is refused", () => outcomes(lines).length === 1);
  await files.write({ key: first.keyPem });
  await eventually("it is back", () => outcomes(lines).length === 2);
  assertMatch(outcomes(lines)[1]!, /unchanged.*CN=first/);
  assertStrictEquals(tls.current, before);
});

test("watch() picks up what is written one file after the other, with one complaint at most", async ({ lines, files, time, tls }) => {
  await using _watching = watch(tls);
  await Deno.writeTextFile(files.path("cert"), second.certPem);
  await time.passed(3);
  assertEquals(subjectOf(tls), "CN=first");
  await Deno.writeTextFile(files.path("key"), second.keyPem);
  await eventually("the new set is used", () => subjectOf(tls) === "CN=second");
  await time.passed(3);
  // A file is written by opening it, which empties it: one may have been seen like that.
  const said = outcomes(lines);
  assertMatch(said.at(-1)!, /reloaded.*CN=second/);
  assertEquals(count(said, '"certificates reloaded"'), 1);
  assertEquals(new Set(said).size, said.length);
  assertEquals(count(said, "does not match"), 1);
});

Deno.test({
  name: "ReloadingTls watch() picks up what Kubernetes links anew, all of it at once",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    using lines = logLines(4);
    await using files = await Files.create();
    const stage = async (version: string, contents: Contents) => {
      await Deno.mkdir(files.path(version));
      for (const [name, content] of Object.entries(contents)) {
        await Deno.writeTextFile(files.path(`${version}/${name}`), content);
      }
      // As its atomic writer does: a link beside the old one, renamed over it.
      await Deno.symlink(version, files.path("..data_tmp"));
      await Deno.rename(files.path("..data_tmp"), files.path("..data"));
    };
    await stage("..2030_1", { ca: ca.certPem, ...setOf(first) });
    for (const name of ["ca", "cert", "key"]) {
      await replace(files.path(name), () => Deno.symlink(join("..data", name), files.path(name)));
    }
    const tls = await files.load();
    await using _watching = watch(tls);
    await stage("..2030_2", { ca: ca.certPem + otherCa.certPem, ...setOf(second) });
    await Deno.remove(files.path("..2030_1"), { recursive: true });
    await eventually("it is used", () => subjectOf(tls) === "CN=second");
    // The swap may have come between two of the files, but that is put right at the next look.
    await eventually("all of it is used", () => tls.current.certificates.length === 3);
    assert(count(outcomes(lines), "not reloaded") <= 1, lines.join("\n"));
  },
});

test("watch() takes a set when its time has come", async ({ lines, files, time, tls }) => {
  await using _watching = watch(tls);
  await files.write(setOf(await issue("early", 365, Date.now() + DAY_MS)));
  await eventually("it is refused", () => count(outcomes(lines), "is not valid before") === 1);
  // What it says of the clock differs each time, but that is nothing new.
  for (let i = 0; i < 3; i++) {
    time.at = new Date(time.at.getTime() + 1000);
    await time.passed(1);
  }
  assertEquals(count(outcomes(lines), "is not valid before"), 1);
  time.at = new Date(time.at.getTime() + DAY_MS);
  await eventually("it is used", () => subjectOf(tls) === "CN=early");
});

test("watch() reads at once when it hears of SIGHUP, and not after its end", async ({ lines, files, tls }) => {
  const stop = new AbortController();
  let hangup = () => {};
  const watching = tls.watch({ signal: stop.signal, onHangup: (listener) => hangup = listener });
  await files.write(setOf(second));
  hangup();
  await eventually("it is used", () => subjectOf(tls) === "CN=second");
  stop.abort();
  await deadline(watching, STUCK_MS);
  await files.write(setOf(third));
  hangup();
  await tls.reload();
  assertEquals(count(outcomes(lines), '"certificates reloaded"'), 2);
});

Deno.test("ReloadingTls watch() says what it watches and what comes near its end, and goes on with what has expired", async () => {
  using lines = logLines(4);
  await using files = await Files.create({ ca: ca.certPem + otherCa.certPem });
  const time = clock();
  const tls = await files.load(time.now);
  await using _watching = watch(tls);
  assertMatch(
    lines.join("\n"),
    /^\S+ INF tls "certificates loaded" subject="CN=first".* certificates=3$/,
  );
  time.at = new Date(Date.now() + 345 * DAY_MS);
  const expires = (level: string, file: string, name: string) =>
    eventually(
      `${level} about ${name}`,
      () =>
        lines.some((line) =>
          line.includes(` ${level} tls "certificate `) && line.includes(`file=${file} `) &&
          line.includes(`subject="CN=${name}"`)
        ),
    );
  await expires("WRN", "--cert-file", "first");
  await expires("WRN", "--ca-file", "test CA");
  await expires("WRN", "--ca-file", "other CA");
  time.at = new Date(Date.now() + 370 * DAY_MS);
  await expires("ERR", "--cert-file", "first");
  await time.passed(3);
  assertEquals(count(lines, '"certificate has expired"'), 3);
  assertEquals(outcomes(lines), []);
  assertEquals(subjectOf(tls), "CN=first");
});

test("warns of a private key that all users can read, and of no other", async (at) => {
  const warnings = () => count(at.lines, 'WRN tls "all users can read the private key"');
  await at.tls.reload();
  assertEquals(warnings(), 0);
  await at.files.write(setOf(second));
  await Deno.chmod(at.files.path("key"), 0o640);
  await at.tls.reload();
  assertEquals(warnings(), 0);
  await at.files.write(setOf(third));
  await Deno.chmod(at.files.path("key"), 0o644);
  await at.tls.reload();
  assertEquals(warnings(), 1);
});

Deno.test("ReloadingTls leaves out a CA from when it expires, and says so once", async () => {
  using lines = logLines(4);
  const old = await createCa({
    commonName: "old CA",
    notBefore: new Date(Date.now() - DAY_MS),
    notAfter: new Date(Date.now() + DAY_MS),
  });
  const next = await createCa({
    commonName: "next CA",
    notBefore: new Date(Date.now() + 2 * DAY_MS),
    notAfter: new Date(Date.now() + 300 * DAY_MS),
  });
  await using files = await Files.create({ ca: old.certPem + next.certPem + ca.certPem });
  const time = clock();
  const tls = await files.load(time.now);
  await using _watching = watch(tls);
  const trusted = () =>
    [old, next, ca].filter(({ certPem }) =>
      new TextDecoder().decode(tls.current.ca).includes(certPem.trim())
    );
  assertEquals(trusted(), [old, ca]);
  time.at = new Date(Date.now() + 1.5 * DAY_MS);
  await time.passed(3);
  assertEquals(trusted(), [ca]);
  time.at = new Date(Date.now() + 3 * DAY_MS);
  await time.passed(3);
  assertEquals(trusted(), [next, ca]);
  assertEquals(
    lines.filter((line) => / (WRN|ERR) .*expired/.test(line)).map((line) => line.slice(25)),
    ['WRN tls "expired certificates are not used" file=--ca-file subjects="\\"CN=old CA\\""'],
  );
});

test("says at once that a new set expires soon", async ({ lines, files, tls }) => {
  await files.write(setOf(await issue("short", 40, Date.now() - 35 * DAY_MS)));
  await tls.reload();
  assertMatch(
    lines.at(-1)!,
    /WRN tls "certificate expires soon" file=--cert-file .*CN=short.* daysLeft=4$/,
  );
});

Deno.test({
  name: "ReloadingTls keeps what came through a pipe, and does not open what has become one",
  ignore: Deno.build.os === "windows",
  fn: async () => {
    using lines = logLines(4);
    await using files = await Files.create();
    const mkfifo = (name: string) =>
      replace(files.path(name), async () => {
        const { success } = await new Deno.Command("mkfifo", { args: [files.path(name)] }).output();
        assert(success);
      });
    await mkfifo("key");
    // By another process: on Deno 2.7 the opening of a pipe blocks the whole program.
    const script = `printf %s "$0" > "$1"`;
    const writer = new Deno.Command("sh", {
      args: ["-c", script, first.keyPem, files.path("key")],
    });
    const [tls, { success }] = await Promise.all([files.load(), writer.output()]);
    assert(success);
    await files.write({ ca: otherCa.certPem });
    await deadline(tls.reload(), STUCK_MS);
    assertMatch(outcomes(lines).at(-1)!, /"certificates reloaded"/);
    await mkfifo("ca");
    await deadline(tls.reload(), STUCK_MS);
    assertMatch(outcomes(lines).at(-1)!, /cannot read --ca-file .*: no longer a regular file/);
  },
});

test("shows no key when printed", ({ tls }) => {
  const bytes = new TextEncoder().encode(first.keyPem.split("\n")[1]!).join();
  const options = { depth: 9, iterableLimit: 9999, showHidden: true, getters: true };
  for (const shown of [Deno.inspect({ tls }, options), JSON.stringify({ tls }), `${tls}`]) {
    assert(!shown.replaceAll(/\s/g, "").includes(bytes.slice(0, 40)), shown);
  }
});
