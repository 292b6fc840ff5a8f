// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { parse } from "@std/toml/parse";

/** A Rust crate. */
export interface Crate {
  readonly name: string;
  readonly version: string;
  /** SHA-256 of the crate's archive; the crate that all is built from has none. */
  readonly checksum?: string;
  /** As `name`, or where there are several versions of it, `name version`. */
  readonly dependencies?: readonly string[];
}

/**
 * What does not end up in the native library: tools and macros for building it, and code for platforms that there is no
 * build for. `Cargo.lock` has these as well, and does not tell them from the others.
 */
export const NOT_LINKED: readonly string[] = [
  "autocfg",
  "bindgen",
  "cc",
  "cmake",
  "ctor",
  "foreign-types-macros",
  "fs_extra",
  "fslock",
  "hermit-abi",
  "napi-build",
  "napi-derive",
  "serde_derive",
  "web-sys",
  "winapi-i686-pc-windows-gnu",
  "winapi-x86_64-pc-windows-gnu",
];

/**
 * BoringSSL, which the crate `boring-sys` carries in its archive: the commit that this version of it was made with,
 * `git ls-tree v3.1.0 boring-sys/deps/boringssl` in github.com/cloudflare/boring.
 */
export const BORINGSSL = {
  carrier: "boring-sys 3.1.0",
  commit: "44b3df6f03d85c901767250329c571db405122d5",
} as const;

/**
 * The crates that are linked into a native library.
 *
 * @param cargoLock text of its `Cargo.lock`
 * @param from name of its own crate
 * @returns by `name version`, with the dependencies resolved to these keys, in this order
 */
export function linkedCrates(cargoLock: string, from: string): Map<string, Crate> {
  const { package: all } = parse(cargoLock) as { package: readonly Crate[] };
  const find = (wanted: string): Crate => {
    const [name, version] = wanted.split(" ");
    const crate = all.find((each) =>
      each.name === name && (version === undefined || each.version === version)
    );
    if (!crate) throw new Error(`${wanted} is not in Cargo.lock`);
    return crate;
  };
  const linked = new Map<string, Crate>();
  const add = (crate: Crate): string => {
    const key = `${crate.name} ${crate.version}`;
    if (!linked.has(key)) {
      linked.set(key, crate); // before its dependencies: there may be circles
      const dependencies = (crate.dependencies ?? []).map(find)
        .filter(({ name }) => !NOT_LINKED.includes(name))
        .map(add);
      linked.set(key, { ...crate, dependencies });
    }
    return key;
  };
  add(find(from));
  return new Map([...linked].sort(([a], [b]) => a < b ? -1 : 1));
}
