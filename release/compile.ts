// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- a command for the terminal, which logs nothing

/**
 * `deno task compile`: makes a self-contained executable of each program.
 *
 * A program gets the permissions and the flags of V8 of its task in `deno.json`, and the packages that it imports: `deno compile` by itself
 * embeds all that `deno.json` names, so it is shown a configuration that names no others. Of these packages, files that no program can load
 * stay out: types, source maps, documents and test data.
 */
import { join } from "node:path";
import project from "../deno.json" with { type: "json" };
import { stepOutput } from "../lib/cli/check/spinner.ts";
import { messageOf, UsageError } from "../lib/errors.ts";
import { agentPlatforms, unsupported } from "../lib/quic/quiche/platforms.ts";
import { COMMIT_FILE } from "../lib/version.ts";
import { parseCommandLine } from "../tools/command_line.ts";
import { type CommandOutput, commandOutput } from "../tools/command_output.ts";
import { programArguments, type ProgramTask, programTasks } from "../tools/project_program.ts";
import { commit } from "./commit.ts";
import { type Embedded, packageOf, parseEmbedded } from "./embedded.ts";
import { npmPackagesOf } from "./npm_packages.ts";
import { type PackageFiles, packageFiles } from "./package_files.ts";

const HELP =
  `Compiles proxy-server, proxy-agent and proxy-passthrough; for Linux on arm64, without proxy-server.

Usage: deno task compile [options]

  --target T   compile for another platform, into dist/T; may be repeated
  --help       show this help

Without --target, compiles for this machine, into dist/.

Environment:
  COMPILE_DENO  the Deno to compile with (default: the one that runs this)
  DENORT_BIN    Deno's runtime for compiled programs, of the same version (default: downloaded)
  COMMIT        the commit to show in --version, if git is not available`;

const deno = Deno.env.get("COMPILE_DENO") || Deno.execPath();

/** The stack of Deno's threads: the usual 2 MB are not enough for all that it analyses. */
const STACK_BYTES = 32 << 20;

const NO_RUNTIME =
  "If Deno's runtime for compiled programs cannot be downloaded here, set DENORT_BIN: see docs/install.md";

/** @throws {Error} with what the command has written to stderr, when it fails */
async function run(command: string, args: string[]): Promise<CommandOutput> {
  const env = { NO_COLOR: "1", RUST_MIN_STACK: `${STACK_BYTES}` };
  const output = await commandOutput(command, args, { env });
  if (!output.success) {
    const { stderr } = output;
    const hint = /Download \S+\/denort-/.test(stderr) ? `\n${NO_RUNTIME}` : "";
    throw new Error(`${command} ${args[0]} failed:\n${stderr.trimEnd()}${hint}`);
  }
  return output;
}

/** The words of the task of a program that are permissions, or flags of V8. */
function optionsOf(program: ProgramTask): string[] {
  const options = programArguments(program)
    .filter((word) => /^--(?:allow-(?!all)|deny-|no-prompt$|v8-flags=)/.test(word));
  if (options.length < 3) throw new Error(`the task ${program} names no permissions`);
  return options;
}

/** The packages that a program imports, as `deno.json` names them. */
async function importsOf(program: ProgramTask): Promise<Record<string, string>> {
  interface Module {
    readonly specifier: string;
    readonly dependencies?: readonly { readonly specifier: string; readonly code?: unknown }[];
  }
  const { stdout } = await run(deno, ["info", "--json", `${program}.ts`]);
  const { modules } = JSON.parse(stdout) as { modules: Module[] };
  const names = new Set(
    modules.flatMap(({ dependencies = [] }) =>
      dependencies.filter(({ code }) => code !== undefined).map(({ specifier }) => specifier)
    ),
  );
  return Object.fromEntries(Object.entries(project.imports).filter(([name]) => names.has(name)));
}

/** The standard library: each of its functions has a module of its own, and a program loads few of them. */
const STD = "deno-std";

/** What a program needs of each package, by name. */
async function filesOf(
  program: ProgramTask,
  imports: Readonly<Record<string, string>>,
): Promise<Map<string, PackageFiles>> {
  const packages = [...(await npmPackagesOf([`${program}.ts`])).values()];
  const files = await Promise.all(packages.map(async ({ name, folder }) => {
    const modules = name === STD ? await stdModules(folder, imports) : undefined;
    return { name, ...packageFiles(folder, modules) };
  }));
  // There may be several versions of one.
  const byName = Map.groupBy(files, ({ name }) => name);
  return new Map(Array.from(byName, ([name, versions]) => [name, {
    bytes: versions.reduce((sum, { bytes }) => sum + bytes, 0),
    excluded: versions.flatMap(({ excluded }) => excluded),
  }]));
}

/** Absolute paths of the modules of the standard library that imports lead to. */
async function stdModules(
  folder: string,
  imports: Readonly<Record<string, string>>,
): Promise<Set<string>> {
  const entries = Object.values(imports).filter((target) => target.startsWith(`npm:${STD}@`))
    .map((target) => join(folder, target.slice(target.indexOf("/") + 1)));
  const graphs = await Promise.all(entries.map(async (entry) => {
    const { stdout } = await run(Deno.execPath(), ["info", "--json", "--no-config", entry]);
    return JSON.parse(stdout) as { readonly modules: readonly { readonly local: string }[] };
  }));
  return new Set(graphs.flatMap(({ modules }) => modules.map(({ local }) => local)));
}

/** What Deno keeps of its own about the files of a package: a part of their size, and bytes. */
const NOTES = { part: 0.1, bytes: 2048 };

/** @throws {Error} when more of a package is embedded than a program needs */
function checkSizes(
  embedded: readonly Embedded[],
  files: ReadonlyMap<string, PackageFiles>,
): void {
  const byPackage = Map.groupBy(embedded, ({ path }) => packageOf(path));
  for (const [name, parts] of byPackage) {
    if (name === undefined) continue;
    const bytes = parts.reduce((sum, part) => sum + part.bytes, 0);
    const needed = files.get(name)?.bytes ?? 0;
    if (bytes > needed * (1 + NOTES.part) + NOTES.bytes) {
      throw new Error(
        `${name} takes ${kilobytes(bytes)}, of which ${kilobytes(needed)} are needed`,
      );
    }
  }
}

const kilobytes = (bytes: number) => `${Math.ceil(bytes / 1e3)} kB`;

/**
 * The names of the packages that a program may have.
 *
 * @throws {Error} when one of them is not what the project's lock file says
 */
function checkLock(): Set<string> {
  const [project, program] = ["deno.lock", LOCK_FILE].map((path): Record<string, unknown> =>
    JSON.parse(Deno.readTextFileSync(path)).npm
  ) as [Record<string, unknown>, Record<string, unknown>];
  for (const [name, entry] of Object.entries(program)) {
    if (JSON.stringify(project[name]) !== JSON.stringify(entry)) {
      throw new Error(`deno.lock does not have the ${name} that would be embedded`);
    }
  }
  return new Set(Object.keys(program).map((name) => name.replace(/(.)@.*$/, "$1")));
}

/** What `deno compile` is shown instead of `deno.json` and `deno.lock`, and the latter as it leaves it. */
const CONFIG_FILE = "dist/deno.json";
const LOCK_FILE = "dist/deno.lock";

/** Compiles one program. Returns what is embedded in it. */
async function compile(
  program: ProgramTask,
  target: string | undefined,
  output: string,
): Promise<readonly Embedded[]> {
  const { unstable } = project;
  const imports = await importsOf(program);
  const lock = { path: "deno.lock", frozen: false };
  const files = await filesOf(program, imports);
  const exclude = [...files.values()].flatMap(({ excluded }) => excluded);
  const config = { unstable, imports, lock, compile: { exclude } };
  await Deno.writeTextFile(CONFIG_FILE, JSON.stringify(config));
  await Deno.copyFile("deno.lock", LOCK_FILE);
  const { stderr, stdout } = await run(deno, [
    "compile",
    `--config=${CONFIG_FILE}`,
    // Nothing is written to, or run from, a folder that is shared with others.
    "--no-code-cache",
    "--no-check",
    ...optionsOf(program),
    ...(target ? [`--target=${target}`] : []),
    `--include=${COMMIT_FILE}`,
    `--output=${output}`,
    `${program}.ts`,
  ]);
  const embedded = parseEmbedded(stdout + stderr);
  const packages = checkLock();
  for (const { path } of embedded) {
    const name = packageOf(path);
    if (name === undefined ? /^tests\b/.test(path) : !packages.has(name)) {
      throw new Error(`${path} is embedded, which the program does not import`);
    }
  }
  // Once more: the package with the library for another machine was not there before.
  checkSizes(embedded, await filesOf(program, imports));
  return embedded;
}

const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;

/** What a program's size is made of. */
function describeSize(bytes: number, embedded: readonly Embedded[]): string {
  const sum = (is: (name: string | undefined) => boolean) =>
    embedded.filter(({ path }) => is(packageOf(path))).reduce((sum, { bytes }) => sum + bytes, 0);
  const library = sum((name) => name?.startsWith("@matrixai/quic-") ?? false);
  const own = sum((name) => name === undefined);
  const packages = sum((name) => name !== undefined) - library;
  const runtime = bytes - library - own - packages;
  return `${megabytes(bytes)}: ${megabytes(runtime)} Deno's runtime, ` +
    `${megabytes(library)} the QUIC library, ${megabytes(packages)} other packages, ` +
    `${megabytes(own)} the program`;
}

/**
 * The programs that there can be for a target.
 *
 * @throws {UsageError} when there is none
 */
function programsFor(target: string): readonly ProgramTask[] {
  const problem = unsupported(target);
  if (problem === undefined) return programTasks;
  if (agentPlatforms.some((platform) => platform.target === target)) {
    return programTasks.filter((program) => program !== "server");
  }
  throw new UsageError(problem);
}

async function compileAll(targets: readonly (string | undefined)[]): Promise<void> {
  const all = targets.flatMap((target) =>
    programsFor(target ?? Deno.build.target).map((program) => ({ target, program }))
  );
  await Deno.mkdir("dist", { recursive: true });
  await Deno.writeTextFile(COMMIT_FILE, `${await commit()}\n`);
  const output = stepOutput((line) => console.log(line));
  const since = performance.now();
  let compiled = 0;
  try {
    for (const { target, program } of all) {
      const ending = (target ?? Deno.build.target).includes("windows") ? ".exe" : "";
      const path = join("dist", target ?? "", `proxy-${program}${ending}`);
      const left = (all.length - compiled) * (performance.now() - since) / compiled;
      const time = compiled > 0 ? `, ${Math.ceil(left / 1000)} s left` : "";
      output.running?.(`${path} (${++compiled} of ${all.length}${time})`);
      const embedded = await compile(program, target, path);
      const { size } = await Deno.stat(path);
      output.write(`${path}  ${describeSize(size, embedded)}`);
      for (const { path } of embedded) output.write(`  ${path}`);
    }
  } finally {
    output.running?.(undefined);
    for (const path of [COMMIT_FILE, CONFIG_FILE, LOCK_FILE]) {
      await Deno.remove(path).catch(() => {});
    }
  }
}

if (import.meta.main) {
  try {
    const { target, help } = parseCommandLine(Deno.args, { list: ["target"] });
    if (help) console.log(HELP);
    else await compileAll(target.length > 0 ? target : [undefined]);
  } catch (error) {
    console.error(`compile: ${messageOf(error)}`);
    Deno.exit(error instanceof UsageError ? 2 : 1);
  }
}
