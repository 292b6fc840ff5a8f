// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertNotEquals, assertThrows } from "@std/assert";
import * as Spec from "@cyclonedx/cyclonedx-library/Spec";
import { JsonStrictValidator } from "@cyclonedx/cyclonedx-library/Validation";
import { version } from "../../lib/version.ts";
import { linkedCrates, NOT_LINKED } from "../../release/crates.ts";
import { npmPackagesOf } from "../../release/npm_packages.ts";
import { sbom } from "../../release/sbom.ts";

interface Component {
  readonly "bom-ref": string;
  readonly name: string;
  readonly version: string;
  readonly purl?: string;
  readonly licenses?: readonly unknown[];
  readonly hashes?: readonly { readonly alg: string; readonly content: string }[];
  readonly components?: readonly Component[];
}

interface Bom {
  readonly metadata: { readonly timestamp?: string; readonly component: Component };
  readonly components: readonly Component[];
  readonly dependencies: readonly { readonly ref: string; readonly dependsOn?: string[] }[];
}

const text = await sbom();
const bom: Bom = JSON.parse(text);
const packages = bom.components.filter(({ purl }) => purl?.startsWith("pkg:npm/"));
const all = bom.components.flatMap((each) => [each, ...each.components ?? []]);

function component(purl: string): Component {
  const found = all.find((each) => each.purl === purl);
  assert(found, `${purl} is in the list`);
  return found;
}

/** Everything that a component is made of, however far down. */
function below(ref: string, seen = new Set<string>()): Set<string> {
  for (const next of bom.dependencies.find((each) => each.ref === ref)?.dependsOn ?? []) {
    if (!seen.has(next)) below(next, seen.add(next));
  }
  return seen;
}

Deno.test("sbom() is valid CycloneDX 1.6", async () => {
  const validator = new JsonStrictValidator(Spec.Version.v1dot6);
  assertEquals(await validator.validate(text), null);
  assertNotEquals(await validator.validate(text.replace('"platform"', '"plattform"')), null);
});

Deno.test("sbom() gives the same text each time, and a time only when told", async () => {
  assertEquals(await sbom(), text);
  assertEquals(bom.metadata.timestamp, undefined);
  const { metadata } = JSON.parse(await sbom(new Date(0)));
  assertEquals(metadata.timestamp, "1970-01-01T00:00:00.000Z");
});

Deno.test("sbom() is about this project and leads to every part", () => {
  const { component } = bom.metadata;
  assertEquals([component.name, component.version], ["quic-reverse-http-tunnel", version]);
  assertEquals(
    [...below(component["bom-ref"])].sort(),
    all.map((each) => each["bom-ref"]).sort(),
  );
});

Deno.test("sbom() has the packages of the programs with hash and licence, for all platforms", () => {
  for (const { name, licenses, hashes } of packages) {
    assertEquals(licenses?.length, 1, name);
    assertEquals(
      hashes?.map(({ alg, content }) => [alg, content.length]),
      [["SHA-512", 128]],
      name,
    );
  }
  component("pkg:npm/%40logtape/logtape@2.4.2");
  component("pkg:npm/deno-std@1.4.0");
  component("pkg:npm/%40peculiar/x509@2.2.0");
  for (const platform of ["linux-x64", "darwin-arm64", "darwin-x64", "win32-x64"]) {
    component(`pkg:npm/%40matrixai/quic-${platform}@1.2.12`);
  }
});

Deno.test("sbom() has none of the packages that only development needs", async () => {
  const lock = JSON.parse(await Deno.readTextFile(new URL("../../deno.lock", import.meta.url)));
  const names = packages.map(({ purl }) => decodeURIComponent(purl!.slice("pkg:npm/".length)));
  assertEquals(names.filter((name) => !(name in lock.npm)), []);
  const development = ["fast-check", "ajv", "yaml", "@cyclonedx"];
  assertEquals(names.filter((name) => development.some((each) => name.startsWith(each))), []);
});

Deno.test("sbom() has what the native library and the runtime are made of", () => {
  const { components = [] } = component("pkg:npm/%40matrixai/quic@1.2.12");
  assertEquals(
    components.filter(({ name }) => ["BoringSSL", "boring-sys", "quiche"].includes(name))
      .map(({ name, version }) => `${name} ${version}`),
    ["boring-sys 3.1.0", "quiche 0.18.0", "BoringSSL 44b3df6f03d85c901767250329c571db405122d5"],
  );
  const linux = below("pkg:npm/%40matrixai/quic-linux-x64@1.2.12");
  assertEquals(components.filter((each) => !linux.has(each["bom-ref"])), []);
  component(`pkg:github/denoland/deno@v${Deno.version.deno}`);
});

Deno.test("NOT_LINKED names nothing that Cargo.lock does not have", async () => {
  const { cargoLock = "" } = (await npmPackagesOf(["server.ts"])).get("@matrixai/quic@1.2.12")!;
  assertEquals(NOT_LINKED.filter((name) => !cargoLock.includes(`name = "${name}"\n`)), []);
});

Deno.test("linkedCrates() follows dependencies to the version meant, and leaves out what only builds", () => {
  const crate = (name: string, version: string, ...dependencies: string[]) =>
    `[[package]]\nname = "${name}"\nversion = "${version}"\ndependencies = ${
      JSON.stringify(dependencies)
    }\n`;
  const lock = [
    crate("top", "1.0.0", "cc", "twice 2.0.0", "loop"),
    crate("twice", "1.0.0"),
    crate("twice", "2.0.0"),
    crate("loop", "1.0.0", "top"),
    crate("cc", "1.0.0", "twice 1.0.0"),
  ].join("\n");
  assertEquals([...linkedCrates(lock, "top").keys()], ["loop 1.0.0", "top 1.0.0", "twice 2.0.0"]);
  assertEquals(linkedCrates(lock, "top").get("top 1.0.0")?.dependencies, [
    "twice 2.0.0",
    "loop 1.0.0",
  ]);
  assertThrows(() => linkedCrates(lock, "none"), Error, "none is not in Cargo.lock");
});
