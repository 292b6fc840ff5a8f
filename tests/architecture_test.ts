// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";

/**
 * The architecture: every file of the programs, from the ground up. A name that ends in a slash is a folder.
 *
 * A file imports from its own layer and from those above it in this table, nothing else and never in a circle.
 */
const layers: readonly (readonly string[])[] = [
  // Pure: values in, values out.
  [
    "lib/acl.ts",
    "lib/agent_names.ts",
    "lib/authority.ts",
    "lib/backoff.ts",
    "lib/balance.ts",
    "lib/cidr.ts",
    "lib/connect_head.ts",
    "lib/dialect.ts",
    "lib/errors.ts",
    "lib/failure_streak.ts",
    "lib/happy_eyeballs.ts",
    "lib/ip_address.ts",
    "lib/on_abort.ts",
    "lib/pem.ts",
    "lib/platforms.ts",
    "lib/proxy_protocol.ts",
    "lib/rate_limit.ts",
    "lib/read_buffer.ts",
    "lib/running.ts",
    "lib/sleep.ts",
    "lib/throttle.ts",
    "lib/tunnel_error.ts",
    "lib/within.ts",
  ],
  // Pure as well: what a command line means.
  ["lib/flags.ts", "lib/program_flags.ts"],
  // The contracts that the rest is built on.
  [
    "lib/certificate.ts",
    "lib/completion.ts",
    "lib/duplex.ts",
    "lib/log.ts",
    "lib/programs.ts",
    "lib/status.ts",
    "lib/status_page.ts",
    "lib/status_page/",
    "lib/tcp_reset.ts",
    "lib/trace.ts",
    "lib/version.ts",
  ],
  // One mechanism each.
  [
    "lib/accept.ts",
    "lib/client.ts",
    "lib/dial.ts",
    "lib/failure.ts",
    "lib/hints.ts",
    "lib/large_datagrams.ts",
    "lib/pipe.ts",
    "lib/qrht/",
    "lib/quic/",
    "lib/replay.ts",
    "lib/resolver.ts",
    "lib/retrying_tunnel.ts",
    "lib/tls.ts",
    "lib/tls_expiry.ts",
    "lib/tunnel.ts",
    "lib/udp_refusal.ts",
  ],
  // What keeps a program going.
  [
    "lib/admin.ts",
    "lib/agent_links.ts",
    "lib/agent_session.ts",
    "lib/connected_agent.ts",
    "lib/current_status.ts",
    "lib/ending.ts",
    "lib/lifecycle.ts",
    "lib/links.ts",
    "lib/history.ts",
    "lib/metrics.ts",
    "lib/monitor.ts",
    "lib/peer_totals.ts",
    "lib/readiness.ts",
    "lib/reconnect.ts",
    "lib/registry.ts",
    "lib/route.ts",
    "lib/snapshot.ts",
    "lib/tls_reload.ts",
  ],
  // What `--check` goes through.
  ["lib/check/"],
  // The programs.
  ["agent.ts", "passthrough.ts", "server.ts"],
];
const PURE_LAYERS = 2;
const PROGRAMS = layers.length - 1;

/** The packages that the programs are made of; all others are for development. */
const PACKAGES = ["@logtape/logtape", "@matrixai/quic/native", "@opentelemetry/api", "prom-client"];
/** Who may import the native binding. */
const BINDING = { name: "@matrixai/quic", user: "lib/quic/native.ts" };
/** Who may touch the process, beside the programs: its arguments, environment, signals and exit. */
const LIFECYCLE = "lib/lifecycle.ts";
/** Who may ask how much of the CPU it has taken. */
const METRICS = "lib/metrics.ts";
/** Who must not know of QUIC, so as to be tested without a socket. */
const KNOW_NO_QUIC = [
  "lib/links.ts",
  "lib/pipe.ts",
  "lib/qrht/control.ts",
  "lib/qrht/tunnel_stream.ts",
  "lib/registry.ts",
  "lib/replay.ts",
  "lib/retrying_tunnel.ts",
  "lib/tunnel.ts",
];

const root = new URL("../", import.meta.url);
const NOT_OURS = [".git", "node_modules", "dist", "coverage"];

/** Paths, from the root of the project, of all files below a folder. */
function filesBelow(folder: string): string[] {
  const paths: string[] = [];
  for (const entry of Deno.readDirSync(new URL(folder, root))) {
    if (NOT_OURS.includes(entry.name)) continue;
    if (entry.isDirectory) paths.push(...filesBelow(`${folder}${entry.name}/`));
    else if (entry.isFile) paths.push(`${folder}${entry.name}`);
  }
  return paths.sort();
}

const read = (path: string) => Deno.readTextFileSync(new URL(path, root));

/** A file's text without its comments. Strings are looked at only to tell what is no comment. */
function codeOf(path: string): string {
  const token = /"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`|\/\/[^\n]*|\/\*[\s\S]*?\*\//g;
  return read(path).replace(token, (text) => text.startsWith("/") ? "" : text);
}

/** What a file imports or exports from, as it is written there; also types, and imports made in the course of things. */
function importsOf(path: string): string[] {
  const statement =
    /^\s*(?:import|export)\b[^"'`;]*?\bfrom\s*["']([^"']+)["']|^\s*import\s*["']([^"']+)["']|\bimport\(\s*["'`]([^"'`]+)["'`]/gm;
  return [...codeOf(path).matchAll(statement)].map((match) => match[1] ?? match[2] ?? match[3]!);
}

/** The files of the project among them, from the root. */
function localImportsOf(path: string): string[] {
  return importsOf(path)
    .filter((name) => name.startsWith("."))
    .map((name) => new URL(name, new URL(path, root)).href.slice(root.href.length));
}

function layerOf(path: string): number {
  return layers.findIndex((names) =>
    names.some((name) => name.endsWith("/") ? path.startsWith(name) : path === name)
  );
}

const all = filesBelow("");
const typescript = all.filter((path) => path.endsWith(".ts") && !path.endsWith(".d.ts"));
const programs = layers[PROGRAMS]!;
/** Everything that the programs are made of. */
const parts = typescript.filter((path) => path.startsWith("lib/") || !path.includes("/"));

function test(name: string, fn: () => void): void {
  Deno.test({ name: `the architecture ${name}`, permissions: { read: true }, fn });
}

test("names every file of lib/ and of the root, and no others", () => {
  assertEquals(parts.filter((path) => layerOf(path) < 0), [], "to be placed in a layer");
  const gone = layers.flat().filter((name) => !parts.some((path) => path.startsWith(name)));
  assertEquals(gone, [], "in the table but not there");
});

test("is seen by its test as it is", () => {
  // Were the regular expressions to miss an import, the other tests would hold nothing.
  assert(localImportsOf("server.ts").includes("lib/quic/mod.ts"), "over several lines");
  assert(localImportsOf("lib/quic/mod.ts").includes("lib/quic/native.ts"), "export type from");
  assert(localImportsOf("lib/quic/stream.ts").includes("lib/duplex.ts"), "import type");
  assert(importsOf(BINDING.user).includes(`${BINDING.name}/native`), "a package");
  assert(/\bDeno\.args\b/.test(codeOf(LIFECYCLE)), "a use of Deno");
});

test("has imports go down, or stay in their layer", () => {
  const wrong = parts.flatMap((path) =>
    localImportsOf(path)
      .filter((imported) => imported !== "deno.json")
      .filter((imported) => layerOf(imported) < 0 || layerOf(imported) > layerOf(path))
      .map((imported) => `${path} imports ${imported}`)
  );
  assertEquals(wrong, []);
});

test("has no programs that import each other", () => {
  const wrong = programs.filter((path) =>
    localImportsOf(path).some((imported) => programs.includes(imported))
  );
  assertEquals(wrong, []);
});

test("has no circles", () => {
  const circles: string[] = [];
  const done = new Set<string>();
  const visit = (path: string, way: readonly string[]) => {
    if (way.includes(path)) {
      circles.push([...way.slice(way.indexOf(path)), path].join(" > "));
    } else if (!done.has(path) && path.endsWith(".ts")) {
      for (const imported of localImportsOf(path)) visit(imported, [...way, path]);
      done.add(path);
    }
  };
  for (const path of typescript) visit(path, []);
  assertEquals(circles, []);
});

test("keeps its pure layers free of Deno and Node", () => {
  const wrong = parts.filter((path) => layerOf(path) < PURE_LAYERS).filter((path) =>
    /\bDeno\b/.test(codeOf(path)) || importsOf(path).some((name) => /^(?:node|npm|jsr):/.test(name))
  );
  assertEquals(wrong, []);
});

test("has programs that are made of few packages", () => {
  const names = new Set(parts.flatMap(importsOf).filter((name) => !/^(?:\.|node:)/.test(name)));
  assertEquals([...names].sort(), PACKAGES);
});

test("has one file that imports the native binding", () => {
  const users = parts.filter((path) => importsOf(path).some((name) => name.includes(BINDING.name)));
  assertEquals(users, [BINDING.user]);
});

test("has only the programs and their lifecycle touch the process", () => {
  const wrong = parts
    .filter((path) => !programs.includes(path) && path !== LIFECYCLE)
    .filter((path) =>
      /\bDeno\.(?:args|env|exit|exitCode|addSignalListener|removeSignalListener)\b/
        .test(codeOf(path)) ||
      (importsOf(path).includes("node:process") &&
        !(path === METRICS && codeOf(path).includes('import { cpuUsage } from "node:process"')))
    );
  assertEquals(wrong, []);
});

test("keeps QUIC from those that only know carriers and agents", () => {
  const wrong = KNOW_NO_QUIC.filter((path) =>
    importsOf(path).some((name) => /\bquic\b/.test(name))
  );
  assertEquals(wrong, []);
});

test("has no default exports", () => {
  const wrong = typescript.filter((path) =>
    /\bexport\s+default\b|\bas\s+default\b/.test(codeOf(path))
  );
  assertEquals(wrong, []);
});
