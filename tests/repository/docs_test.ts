// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The documentation: its links lead somewhere, and the flags, variables and log messages that it names exist. */
import { assert, assertEquals } from "@std/assert";
import { envNameOf } from "../../lib/cli/environment.ts";
import type { Flag } from "../../lib/cli/flag.ts";
import { informingFlags } from "../../lib/cli/informing_flags.ts";
import { programInfos } from "../../lib/cli/programs.ts";
import { filesBelow, read, root } from "../support/repository.ts";

const pages = new Map(
  [
    ...["README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md"],
    ...filesBelow("docs/", ".md"),
    ...filesBelow("deploy/", "README.md"),
  ].map((path) => [path, read(path)]),
);

const programs = [
  ...["server.ts", "agent.ts", "passthrough.ts"],
  ...filesBelow("lib/", ".ts", ".js"),
];
const tools = [
  ...["certs/", "demo/", "bench/", "release/", "tests/"].flatMap((dir) => filesBelow(dir, ".ts")),
];

/** A page without its blocks of code, each of which is left as an empty line. */
const withoutBlocks = (text: string) => text.replaceAll(/^```[^]*?^```$/gm, "");

/** The text of a heading, as anybody reads it. */
const plain = (heading: string) =>
  heading.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, "$1").replaceAll("`", "");

/** The anchors of a page, as GitHub makes them of its headings. */
function anchorsOf(text: string): Set<string> {
  const anchors = new Set<string>();
  for (const [, heading] of withoutBlocks(text).matchAll(/^#+ (.+)$/gm)) {
    const name = plain(heading!).toLowerCase().replaceAll(/[^\p{L}\p{N}\s_-]/gu, "").replaceAll(
      " ",
      "-",
    );
    let anchor = name;
    for (let n = 1; anchors.has(anchor); n++) anchor = `${name}-${n}`;
    anchors.add(anchor);
  }
  return anchors;
}

/** Links of a page that stay in the repository. */
function linksOf(text: string): string[] {
  const prose = withoutBlocks(text).replaceAll(/`[^`\n]*`/g, "`");
  return Array.from(prose.matchAll(/\]\(([^)\s]+)\)/g), ([, target]) => target!)
    .filter((target) => !/^[a-z]+:/.test(target));
}

/** What is at a link's end, or why nothing is. */
function problemOf(page: string, target: string): string | undefined {
  const [path, anchor] = target.split("#");
  const at = path === "" ? page : new URL(path!, new URL(page, root)).href.slice(root.href.length);
  try {
    Deno.statSync(new URL(at, root));
  } catch {
    return `${page}: ${target}: there is no ${at}`;
  }
  if (anchor === undefined) return undefined;
  const text = pages.get(at);
  if (text === undefined) return `${page}: ${target}: ${at} has no anchors`;
  return anchorsOf(text).has(anchor) ? undefined : `${page}: ${target}: no such heading`;
}

Deno.test("anchorsOf() makes anchors as GitHub does", () => {
  const text = "# A `b`, [c](d)…\n## Who's? x_y\n## A b, c\n```\n# no\n```\n";
  assertEquals([...anchorsOf(text)], ["a-b-c", "whos-x_y", "a-b-c-1"]);
});

Deno.test("every relative link of the documentation leads to a file and a heading that exist", () => {
  let links = 0;
  const problems: string[] = [];
  for (const [page, text] of pages) {
    for (const target of linksOf(text)) {
      links++;
      const problem = problemOf(page, target);
      if (problem !== undefined) problems.push(problem);
    }
  }
  assertEquals(problems, []);
  assert(links > 100, `only ${links} links were found`);
});

Deno.test("problemOf() finds links that lead nowhere", () => {
  assert(problemOf("docs/README.md", "nowhere.md") !== undefined);
  assert(problemOf("docs/README.md", "../README.md#nowhere") !== undefined);
  assertEquals(problemOf("docs/README.md", "../README.md#try-it-on-one-machine"), undefined);
});

Deno.test("docs/README.md links to every page of docs/", () => {
  const linked = linksOf(pages.get("docs/README.md")!).map((target) => `docs/${target}`);
  const missing = [...pages.keys()].filter((page) =>
    page.startsWith("docs/") && page !== "docs/README.md" && !linked.includes(page)
  );
  assertEquals(missing, []);
});

Deno.test("pages that comments and configuration name exist, and so do the headings that they quote", () => {
  const problems: string[] = [];
  const sources = [...programs, ...tools, ...filesBelow("deploy/", ".yaml", ".json", ".service")];
  for (const source of sources) {
    if (source === "tests/repository/docs_test.ts") continue;
    const text = read(source);
    for (const [, page] of text.matchAll(/\b(docs\/[a-z_]+\.md)\b/g)) {
      if (!pages.has(page!)) problems.push(`${source}: ${page}`);
    }
    for (const [, page, anchor] of text.matchAll(/\b(docs\/[a-z_]+\.md)#([a-z-]+)/g)) {
      const problem = problemOf("README.md", `${page}#${anchor}`);
      if (problem !== undefined) problems.push(`${source}: ${problem}`);
    }
    for (const [, page, heading] of text.matchAll(/\b(docs\/[a-z_]+\.md), "([^"]+)"/g)) {
      const found = pages.get(page!)?.includes(` ${heading}\n`);
      if (!found) problems.push(`${source}: ${page}: ${heading}`);
    }
  }
  assertEquals(problems, []);
});

/** Flags of the tasks and tools of this repository: the source that reads each. */
const TOOL_FLAGS: Readonly<Record<string, string>> = {
  dir: "certs/make.ts",
  egress: "certs/make.ts",
  fail: "bench/options.ts",
  force: "certs/make.ts",
  json: "bench/options.ts",
  "max-semi-space-size": "deno.json",
  minutes: "tests/chaos/chaos.ts",
  once: "demo/main.ts",
  only: "bench/options.ts",
  peer: "bench/options.ts",
  push: "release/docker_images.ts",
  seed: "tests/chaos/chaos.ts",
  short: "bench/options.ts",
  target: "release/compile.ts",
  tunnels: "tests/chaos/soak.ts",
  "v8-flags": "deno.json",
};

/** Flags of programs that are not of this project, by the program. */
const OTHER_FLAGS: Readonly<Record<string, string>> = {
  chromium: "proxy-server",
  curl: "head proxy proxy-cacert proxy-cert proxy-key request-target socks5-hostname unix-socket",
  deno: "allow-ffi allow-read allow-write",
  docker: "build-context detach",
  gh: "repo",
  kubectl: "from-file image namespace raw restart rm",
  mariadb: "host port",
  npm: "https-proxy proxy",
  systemctl: "now signal",
  "kube-apiserver": "egress-selector-config-file",
  "the Go program (klog)": "log_file logtostderr",
  "konnectivity's agent":
    "admin-server-port agent-cert agent-identifiers agent-key ca-cert count-server-leases " +
    "health-server-port keepalive-time proxy-server-host proxy-server-port " +
    "service-account-token-path sync-forever sync-interval",
  "konnectivity's server":
    "agent-bind-address agent-namespace agent-port agent-service-account backend-dial-timeout " +
    "cluster-ca-cert cluster-cert cluster-key enable-lease-controller " +
    "graceful-shutdown-timeout kubeconfig mode proxy-strategies server-bind-address " +
    "server-ca-cert server-cert server-count server-id server-key server-port uds-name",
};
const otherFlags = Object.values(OTHER_FLAGS).flatMap((names) => names.split(" "));

const flags = programInfos.flatMap((program) => Object.values<Flag<unknown>>(program.flags));
const flagNames = new Set([
  ...flags.map(({ name }) => name),
  ...Object.values(informingFlags).map(({ name }) => name),
]);

/** The flags that a text names, however it does so. */
const flagsIn = (text: string) =>
  new Set(Array.from(text.matchAll(/(?<![\w-])--([a-z][\w-]*\w|v)/g), ([, name]) => name!));

Deno.test("every flag that the documentation names exists", () => {
  const known = new Set([...flagNames, ...Object.keys(TOOL_FLAGS), ...otherFlags]);
  const unknown: string[] = [];
  for (const [page, text] of pages) {
    for (const name of flagsIn(text)) if (!known.has(name)) unknown.push(`${page}: --${name}`);
  }
  assertEquals(unknown, []);
  for (const [name, source] of Object.entries(TOOL_FLAGS)) {
    assert(new RegExp(`\\b${name}\\b`).test(read(source)), `${source} has no --${name}`);
  }
});

Deno.test("the documentation names every flag of other programs that is let through here", () => {
  const named = flagsIn([...pages.values()].join("\n"));
  const others = [...otherFlags, ...Object.keys(TOOL_FLAGS)];
  assertEquals(others.filter((name) => !named.has(name)), []);
});

Deno.test("every variable QRHT_… that the documentation names exists", () => {
  const known = flags.map(({ name }) => envNameOf(name));
  const unknown: string[] = [];
  for (const [page, text] of pages) {
    for (const [name] of text.matchAll(/\bQRHT_[A-Z_]*[A-Z]\b/g)) {
      if (!known.includes(name)) unknown.push(`${page}: ${name}`);
    }
  }
  assertEquals(unknown, []);
});

/** Pages that say what the programs log. */
const PAGES_ABOUT_LOGS = [
  "docs/agents_and_servers.md",
  "docs/certificates.md",
  "docs/endings.md",
  "docs/logging.md",
  "docs/migration.md",
  "docs/operations.md",
  "docs/troubleshooting.md",
];

/** Words in code on these pages that are not of the programs of this project, but commands, or what others say. */
const OF_OTHERS = [
  "deno run",
  "kubectl exec",
  "kubectl logs",
  "systemctl reload",
  "wrong version number",
];

/** What the sources put together from parts: a part that they have, for each. */
const PUT_TOGETHER: Readonly<Record<string, string>> = {
  "connection closed": "connection ${who}",
  "tunnel agent": "`tunnel ${self}`",
  "tunnel server": "`tunnel ${self}`",
};

/** What pages quote of logs and errors: messages of whole lines, and code that is nothing but words. */
function messagesOf(text: string): string[] {
  const lines = text.matchAll(/\b(?:ERR|WRN|INF|DBG|TRC) \w+ "([^"]+)"/g);
  const code = withoutBlocks(text).matchAll(/`"?([A-Za-z]+(?:\s[a-z]+)+)"?`/g);
  return [...lines, ...code].map(([, message]) => message!.replaceAll(/\s+/g, " "))
    .filter((message) => !OF_OTHERS.includes(message))
    .map((message) => PUT_TOGETHER[message] ?? message);
}

Deno.test("every message that the documentation quotes is in the sources of the programs", () => {
  const sources = programs.map(read).join("\n");
  const problems: string[] = [];
  let messages = 0;
  for (const page of PAGES_ABOUT_LOGS) {
    for (const message of messagesOf(pages.get(page)!)) {
      messages++;
      if (!sources.includes(message)) problems.push(`${page}: ${message}`);
    }
  }
  assertEquals(problems, []);
  assert(messages > 30, `only ${messages} messages were found`);
});

Deno.test("docs/logging.md lists every category of the log, and no others", () => {
  const sources = programs.map(read).join("\n");
  const used = new Set(Array.from(sources.matchAll(/\blogger\("(\w+)"\)/g), ([, name]) => name));
  const [, table] = /^\| category +\|.*\n\|[ -]+\|.*\n((?:\|.*\n)+)/m.exec(
    pages.get("docs/logging.md")!,
  )!;
  const cells = table!.split("\n").map((row) => row.split("|")[1] ?? "").join();
  assertEquals(new Set(Array.from(cells.matchAll(/`(\w+)`/g), ([, name]) => name)), used);
});

Deno.test(".ci/run runs every command in the sh blocks of the documentation", () => {
  const lines = read(".ci/run").split("\n").filter((line) => !/^\s*#/.test(line));
  const isRun = (command: string) => lines.some((line) => `${line} `.includes(`${command} `));
  const blocks = [...pages.values()].flatMap((
    text,
  ) => [...text.matchAll(/^```sh\n([^]*?)\n```$/gm)]);
  const commands = blocks.flatMap(([, block]) => block!.split("\n"));
  assertEquals(commands.filter((command) => !isRun(command)), []);
  assert(commands.length > 10);
});

Deno.test("every file and folder of the sources that the documentation names exists", () => {
  let names = 0;
  const problems: string[] = [];
  for (const [page, text] of pages) {
    for (const [path] of text.matchAll(/(?<!\/var\/)\b(?:lib|tests|tools)\/[\w./-]*[\w/]/g)) {
      names++;
      try {
        Deno.statSync(new URL(path, root));
      } catch {
        problems.push(`${page}: ${path}`);
      }
    }
  }
  assertEquals(problems, []);
  assert(names > 30, `only ${names} paths were found`);
});

Deno.test("no page names another release of Deno than the README, and all of its tasks exist", () => {
  const { tasks } = JSON.parse(read("deno.json")) as { tasks: Record<string, string> };
  const problems: string[] = [];
  const [, deno] = /npx -y (deno@\S+) task/.exec(pages.get("README.md")!)!;
  for (const [page, text] of pages) {
    for (const [, named, task] of text.matchAll(/npx -y (deno@\S+)(?: task ([\w-]+))?/g)) {
      if (named !== deno) problems.push(`${page}: ${named}`);
      if (task !== undefined && !(task in tasks)) problems.push(`${page}: task ${task}`);
    }
  }
  assertEquals(problems, []);
});
