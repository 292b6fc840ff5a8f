// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- says what it has written

/**
 * `deno task sbom`: writes `dist/sbom.cdx.json`, a CycloneDX list of what the programs are made of.
 *
 * The same commit and Deno give the same bytes. SOURCE_DATE_EPOCH, seconds since 1970, adds a time.
 */

import { join } from "node:path";
import * as Enums from "@cyclonedx/cyclonedx-library/Enums";
import * as Models from "@cyclonedx/cyclonedx-library/Models";
import * as Serialize from "@cyclonedx/cyclonedx-library/Serialize";
import * as Spec from "@cyclonedx/cyclonedx-library/Spec";
import project from "../deno.json" with { type: "json" };
import { BORINGSSL, linkedCrates } from "./crates.ts";
import { type NpmPackage, npmPackagesOf } from "./npm_packages.ts";

const PROGRAMS = ["server.ts", "agent.ts", "passthrough.ts"];
const AUTHORS = "the quic-reverse-http-tunnel authors";
/** Licences of parts that do not say it in a file that is at hand. */
const LICENSES: Readonly<Record<string, string>> = {
  boring: "Apache-2.0",
  "boring-sys": "MIT",
  quiche: "BSD-2-Clause",
};

/**
 * The list, as JSON text of CycloneDX 1.6.
 *
 * @param date when the programs were made
 */
export async function sbom(date?: Date): Promise<string> {
  const packages = await npmPackagesOf(PROGRAMS);
  const components = new Map(
    [...packages].map(([key, found]) => [key, npmComponent(found)]),
  );
  for (const [key, { dependencies, cargoLock }] of packages) {
    const component = components.get(key)!;
    for (const dependency of dependencies) {
      component.dependencies.add(components.get(dependency)!.bomRef);
    }
    if (cargoLock === undefined) continue;
    const library = addNativeLibrary(component, cargoLock);
    for (const dependency of dependencies.filter((name) => packages.get(name)!.native)) {
      components.get(dependency)!.dependencies.add(library.bomRef);
    }
  }
  const runtime = denoRuntime();
  const direct = [...packages].filter(([, { direct }]) => direct).map(([key]) =>
    components.get(key)!
  );
  const bom = new Models.Bom({
    metadata: new Models.Metadata({
      ...(date && { timestamp: date }),
      authors: new Models.OrganizationalContactRepository([
        new Models.OrganizationalContact({ name: AUTHORS }),
      ]),
      component: new Models.Component(
        Enums.ComponentType.Application,
        project.name.replace(/^.*\//, ""),
        {
          bomRef: project.name,
          version: project.version,
          licenses: licenses(project.license),
          dependencies: new Models.BomRefRepository(
            [runtime, ...direct].map(({ bomRef }) => bomRef),
          ),
        },
      ),
    }),
    components: new Models.ComponentRepository([runtime, ...components.values()]),
  });
  const format = new Serialize.JSON.Normalize.Factory(Spec.Spec1dot6);
  return new Serialize.JsonSerializer(format).serialize(bom, { sortLists: true, space: 2 }) + "\n";
}

function npmComponent({ name, version, sha512, license }: NpmPackage): Models.Component {
  const purl = `pkg:npm/${name.replace("@", "%40")}@${version}`;
  const [base, group] = name.split("/").reverse();
  return new Models.Component(Enums.ComponentType.Library, base!, {
    ...(group !== undefined && { group }),
    version,
    purl,
    bomRef: purl,
    hashes: new Models.HashDictionary([[Enums.HashAlgorithm["SHA-512"], sha512]]),
    licenses: licenses(license),
  });
}

/**
 * Adds the crates of a native library to the package that has its sources, and BoringSSL to them.
 *
 * @returns the library's own crate
 */
function addNativeLibrary(to: Models.Component, cargoLock: string): Models.Component {
  const crates = linkedCrates(cargoLock, to.name);
  const components = new Map(
    [...crates].map(([key, { name, version, checksum }]) => {
      const purl = `pkg:cargo/${name}@${version}`;
      const component = new Models.Component(Enums.ComponentType.Library, name, {
        version,
        purl,
        bomRef: purl,
        licenses: licenses(LICENSES[name]),
        hashes: new Models.HashDictionary(
          checksum === undefined ? [] : [[Enums.HashAlgorithm["SHA-256"], checksum]],
        ),
      });
      return [key, component];
    }),
  );
  for (const [key, { dependencies = [] }] of crates) {
    const { dependencies: refs } = components.get(key)!;
    for (const dependency of dependencies) refs.add(components.get(dependency)!.bomRef);
  }
  const boringSys = components.get(BORINGSSL.carrier);
  if (!boringSys) throw new Error(`Cargo.lock has another version than ${BORINGSSL.carrier}`);
  const boringSsl = boringSslComponent();
  boringSys.dependencies.add(boringSsl.bomRef);
  for (const component of [...components.values(), boringSsl]) to.components.add(component);
  return [...components.values()].find(({ name }) => name === to.name)!;
}

function boringSslComponent(): Models.Component {
  const purl = `pkg:github/google/boringssl@${BORINGSSL.commit}`;
  return new Models.Component(Enums.ComponentType.Library, "BoringSSL", {
    version: BORINGSSL.commit,
    purl,
    bomRef: purl,
    licenses: licenses("ISC AND MIT AND OpenSSL"),
  });
}

/** The runtime that programs are compiled with: the one that runs this. */
function denoRuntime(): Models.Component {
  const purl = `pkg:github/denoland/deno@v${Deno.version.deno}`;
  const v8 = new Models.Component(Enums.ComponentType.Library, "V8", {
    version: Deno.version.v8,
    bomRef: `v8@${Deno.version.v8}`,
    licenses: licenses("BSD-3-Clause"),
  });
  return new Models.Component(Enums.ComponentType.Platform, "Deno", {
    version: Deno.version.deno,
    purl,
    bomRef: purl,
    licenses: licenses("MIT"),
    components: new Models.ComponentRepository([v8]),
    dependencies: new Models.BomRefRepository([v8.bomRef]),
  });
}

function licenses(spdx: string | undefined): Models.LicenseRepository {
  if (spdx === undefined) return new Models.LicenseRepository();
  return new Models.LicenseRepository([
    spdx.includes(" ") ? new Models.LicenseExpression(spdx) : new Models.SpdxLicense(spdx),
  ]);
}

if (import.meta.main) {
  const epoch = Deno.env.get("SOURCE_DATE_EPOCH");
  const dist = join(import.meta.dirname!, "../dist");
  const path = join(dist, "sbom.cdx.json");
  const text = await sbom(epoch === undefined ? undefined : new Date(Number(epoch) * 1_000));
  await Deno.mkdir(dist, { recursive: true });
  await Deno.writeTextFile(path, text);
  console.log(`written: ${path}`);
}
