// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals } from "@std/assert";
import { filesBelow, importsOf, read } from "../support/repository.ts";

/**
 * The rooms of `lib/` and the programs, from the ground up. A file imports from its own room and
 * from those before it, never in a circle. Rooms that stand side by side do not know each other.
 */
const rooms: readonly (readonly string[])[] = [
  ["lib"],
  ["lib/net"],
  ["lib/tunnel"],
  ["lib/quic", "lib/qrht"],
  ["lib/tls", "lib/connect_udp"],
  ["lib/certs"],
  ["lib/observe"],
  ["lib/server", "lib/agent"],
  ["lib/cli"],
  ["server.ts", "agent.ts", "passthrough.ts"],
];
const programs = rooms.at(-1)!;

/** The packages that the programs are made of; all others are for development. */
const PACKAGES = [
  "@logtape/logtape",
  "@matrixai/quic",
  "@opentelemetry/api",
  "@peculiar/x509",
  "deno-std",
  "prom-client",
  "reflect-metadata",
];

/** What only some files may do; a path is a file or a folder. */
const reserved: readonly {
  readonly what: string;
  readonly code?: RegExp;
  readonly imports?: RegExp;
  /** Who must not, in place of everybody. */
  readonly except?: readonly string[];
  readonly users: readonly string[];
}[] = [
  { what: "import the binding", imports: /^npm:@matrixai\//, users: ["lib/quic/quiche"] },
  { what: "issue certificates", imports: /^npm:@peculiar\//, users: ["lib/certs"] },
  {
    what: "read YAML",
    imports: /^npm:\/?deno-std@[^/]+\/yaml\//,
    users: ["lib/cli/config_file.ts"],
  },
  {
    what: "open the C library",
    code: /\bDeno\.dlopen\b/,
    users: ["lib/net/libc.ts"],
  },
  {
    what: "touch the process",
    code: /\bDeno\.(?:args|env|exit|exitCode|addSignalListener|removeSignalListener)\b/,
    imports: /^node:process$/,
    // The metrics need its CPU time.
    users: [
      "lib/cli/run_program.ts",
      "lib/observe/process_metrics.ts",
      // Deno's own CAs are where the environment says.
      "lib/quic/deno/trust.ts",
      ...programs,
    ],
  },
  {
    what: "use Deno or Node, of the rooms whose files are mostly values in, values out",
    code: /\bDeno\.(?!\w*(?:Conn|Listener|Addr|Options)\b)/,
    imports: /^node:/,
    except: [
      "lib",
      "lib/net",
      "lib/tunnel",
      "lib/qrht",
      "lib/connect_udp",
      "lib/server",
      "lib/agent",
    ],
    users: [
      "lib/version.ts",
      "lib/connect_udp/carrier_socket.ts",
      "lib/connect_udp/dial_carrier.ts",
      "lib/net/accept.ts",
      "lib/net/http_listener.ts",
      "lib/net/libc.ts",
      "lib/net/listen_on.ts",
      "lib/net/resolver.ts",
      "lib/net/tcp_listener.ts",
      "lib/net/tcp_reset.ts",
      "lib/net/unix_listener.ts",
      "lib/qrht/tunnel_stream.ts",
      "lib/server/listeners.ts",
      "lib/server/strangers.ts",
      "lib/server/tcp_front.ts",
      "lib/server/tls_front.ts",
      "lib/tunnel/pipe.ts",
    ],
  },
];

/** What each file imports, types as well: paths from the root, `node:` modules and packages. */
const imports = new Map((await Promise.all(programs.map(importsOf))).flatMap((each) => [...each]));

/** A file's text without its comments. Strings are looked at only to tell what is no comment. */
function codeOf(path: string): string {
  const token = /"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`|\/\/[^\n]*|\/\*[\s\S]*?\*\//g;
  return read(path).replace(token, (text) => text.startsWith("/") ? "" : text);
}

const sourcesBelow = (folder: string) =>
  filesBelow(folder, ".ts").filter((path) => !path.endsWith(".d.ts"));

const isIn = (path: string, place: string) => path === place || path.startsWith(`${place}/`);

/** The room of a file: a program, a folder of `lib/`, or `lib` for a file right in it. */
function roomOf(path: string): string {
  return programs.find((program) => program === path) ?? path.match(/^lib\/\w+(?=\/)|^lib/)?.[0] ??
    path;
}

const level = (room: string) => rooms.findIndex((names) => names.includes(room));

function test(name: string, fn: () => void): void {
  Deno.test({ name: `the architecture ${name}`, permissions: { read: true }, fn });
}

test("has every file of lib/ in a room, and in a program", () => {
  const files = sourcesBelow("lib/");
  assertEquals(files.filter((path) => level(roomOf(path)) < 0), [], "in no room");
  assertEquals(files.filter((path) => !imports.has(path)), [], "in no program");
  assertEquals(
    rooms.flat().filter((room) => ![...imports.keys()].some((path) => isIn(path, room))),
    [],
  );
});

test("has imports stay in their room, or go down", () => {
  const wrong = [...imports].flatMap(([path, targets]) => {
    const own = roomOf(path);
    return targets.filter((target) => target.endsWith(".ts"))
      .filter((target) => roomOf(target) !== own && level(roomOf(target)) >= level(own))
      .map((target) => `${path} imports ${target}`);
  });
  assertEquals(wrong, []);
});

for (const [room, below] of [["quic", "tunnel"], ["connect_udp", "quic"]] as const) {
  test(`has ${room}/ take nothing but types of ${below}/`, () => {
    const imported = new RegExp(`^import \\{[^}]*\\} from "[^"]*\\/${below}\\/`, "m");
    const wrong = sourcesBelow(`lib/${room}/`).filter((path) =>
      imported.test(read(path).replaceAll(/type \w+,?/g, ""))
    );
    assertEquals(wrong, []);
  });
}

test("has no circles", () => {
  const circles: string[] = [];
  const done = new Set<string>();
  const visit = (path: string, way: readonly string[]) => {
    if (way.includes(path)) circles.push([...way.slice(way.indexOf(path)), path].join(" > "));
    else if (!done.has(path)) {
      for (const target of imports.get(path) ?? []) visit(target, [...way, path]);
      done.add(path);
    }
  };
  for (const path of imports.keys()) visit(path, []);
  assertEquals(circles, []);
});

test("has programs that are made of few packages", () => {
  const names = [...imports.values()].flat().map((name) =>
    /^npm:((?:@[^/]+\/)?[^@/]+)/.exec(name)?.[1]
  );
  assertEquals([...new Set(names)].filter((name) => name !== undefined).sort(), PACKAGES);
});

for (const { what, code, imports: imported, except, users } of reserved) {
  test(`lets only some ${what}`, () => {
    const found = [...imports].filter(([path, targets]) =>
      code?.test(codeOf(path)) || targets.some((target) => imported?.test(target))
    ).map(([path]) => path).filter((path) => !except || except.includes(roomOf(path)));
    const mayDo = (path: string) => users.some((user) => isIn(path, user));
    assertEquals(found.filter((path) => !mayDo(path)), []);
    assert(found.some(mayDo), "nobody does: the pattern finds nothing");
  });
}

test("has no default exports", () => {
  const wrong = ["lib/", "tests/", "tools/", "bench/", "demo/", "certs/", "release/"]
    .flatMap(sourcesBelow)
    .filter((path) => /\bexport\s+default\b|\bas\s+default\b/.test(codeOf(path)));
  assertEquals(wrong, []);
});
