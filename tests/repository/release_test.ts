// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { join, relative } from "node:path";
import { validate } from "dockerfile-utils";
import project from "../../deno.json" with { type: "json" };
import { nativeLibraryError } from "../../lib/quic/quiche/native.ts";
import { platforms, unsupported } from "../../lib/quic/quiche/platforms.ts";
import { packageOf, parseEmbedded } from "../../release/embedded.ts";
import { packageFiles } from "../../release/package_files.ts";
import { commandOutput } from "../../tools/command_output.ts";
import { stagesOf } from "../support/dockerfile.ts";
import { importsOf, read, root } from "../support/repository.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

const dockerfile = read("Dockerfile");

function pureTest(name: string, fn: () => void): void {
  Deno.test({ name, permissions: "none", fn });
}

const listing = `Check server.ts
Compile server.ts to dist/proxy-server

Embedded Files

proxy-server
├─┬ .deno_compile_node_modules (5.5MB - 5.4MB unique)
│ └─┬ localhost (5.5MB - 5.4MB unique)
│   ├─┬ @matrixai (5.11MB - 5.01MB unique)
│   │ ├── quic/* (441.87KB - 429.87KB unique)
│   │ └── quic-linux-x64/* (2.99MB)
│   └── ip-num/1.6.2/* (353.54KB)
├── deno.json (3.14KB)
├─┬ lib (733.09KB)
│ └── qrht/* (706B)
├── empty
└── server.ts (31.05KB)

Files: 6.08MB
Metadata: 5.99KB
`;

pureTest("parseEmbedded() reads the tree that deno compile prints", () => {
  const packages = ".deno_compile_node_modules/localhost/";
  assertEquals(parseEmbedded(listing).map(({ path, bytes }) => [path, Math.round(bytes)]), [
    [`${packages}@matrixai/quic/*`, 452475],
    [`${packages}@matrixai/quic-linux-x64/*`, 3135242],
    [`${packages}ip-num/1.6.2/*`, 362025],
    ["deno.json", 3215],
    ["lib/qrht/*", 706],
    ["empty", 0],
    ["server.ts", 31795],
  ]);
});

pureTest("parseEmbedded() refuses what it cannot read, instead of finding nothing", () => {
  assertThrows(() => parseEmbedded("Compile server.ts\n"), Error, "has not listed");
  const other = listing.replace("├── deno.json", "+ deno.json");
  assertThrows(() => parseEmbedded(other), Error, "unknown form");
});

pureTest("packageOf() tells packages, with and without a scope, from files of the project", () => {
  const packages = parseEmbedded(listing).map(({ path }) => packageOf(path));
  const others = [undefined, undefined, undefined, undefined];
  assertEquals(packages, ["@matrixai/quic", "@matrixai/quic-linux-x64", "ip-num", ...others]);
});

/** A package with a file of each kind; all have 10 bytes. */
async function samplePackage() {
  const folder = await temporaryFolder();
  const files = [
    ...["package.json", "index.js", "index.d.ts", "index.js.map", "README.md", "LICENSE"],
    ...["lib/a.mjs", "lib/b.cjs", "lib/b.d.cts", "lib/c.node", "src/a.ts", "test/a.js", "test/10k"],
  ];
  for (const name of ["lib", "src", "test"]) await Deno.mkdir(join(folder.path, name));
  for (const name of files) await Deno.writeTextFile(join(folder.path, name), "0123456789");
  await Deno.writeTextFile(join(folder.path, "package.json"), '{"x": "y"}');
  return folder;
}

Deno.test("packageFiles() leaves out what no program can load, and what is for the package's own tests", async () => {
  await using sample = await samplePackage();
  const { excluded, bytes } = packageFiles(sample.path);
  assertEquals(
    excluded.map((path) => relative(sample.path, path)).sort(),
    [
      ...["README.md", "index.d.ts", "index.js.map", "lib/b.d.cts"],
      ...["src/a.ts", "test/10k", "test/a.js"],
    ],
  );
  assertEquals(bytes, 6 * 10);
});

Deno.test("packageFiles() leaves out modules that a program does not load, if these are known", async () => {
  await using sample = await samplePackage();
  const { excluded, bytes } = packageFiles(
    sample.path,
    new Set([join(sample.path, "lib/a.mjs")]),
  );
  assertEquals([excluded.length, bytes], [10, 3 * 10], "package.json, LICENSE and the module");
  assertEquals(packageFiles(join(sample.path, "none")), { excluded: [], bytes: 0 });
});

Deno.test("packageFiles() leaves out builds for bundlers, unless exports lead to them", async () => {
  await using sample = await samplePackage();
  const excludedOf = async (content: unknown) => {
    await Deno.writeTextFile(join(sample.path, "package.json"), JSON.stringify(content));
    const { excluded } = packageFiles(sample.path);
    return excluded.map((path) => relative(sample.path, path));
  };
  const entries = { main: "lib/b.cjs", module: "lib/a.mjs", unpkg: "index.js" };
  const without = await excludedOf({ main: entries.main });
  const added = (await excludedOf(entries)).filter((path) => !without.includes(path));
  assertEquals(added.toSorted(), ["index.js", "lib/a.mjs"]);
  assertEquals(await excludedOf({ ...entries, exports: {} }), without);
  assert((await excludedOf({ main: "index.js", module: "lib/a.mjs" })).includes("lib/b.cjs"));
});

pureTest("nativeLibraryError() names the machines that there are libraries for", () => {
  const { message } = nativeLibraryError(new Error("x"), "aarch64-unknown-linux-gnu");
  const known = platforms.map(({ target }) => target).join(", ");
  assertEquals(
    message,
    `the QUIC library has no build for aarch64-unknown-linux-gnu, only for ${known}: ` +
      "proxy-server does not run here, and agents need --quic-library=deno",
  );
  assertEquals(unsupported("aarch64-apple-darwin"), undefined);
});

pureTest("nativeLibraryError() tells in one line why a library could not be loaded", () => {
  const cause = new Error("no room\n    at somewhere");
  const { message } = nativeLibraryError(cause, "x86_64-unknown-linux-gnu");
  assertEquals(message, "cannot load the QUIC library: no room");
});

async function task(name: keyof typeof project.tasks, args: string[], env = {}) {
  const words = project.tasks[name].split(" ").slice(1);
  const options = { cwd: root, env: { NO_COLOR: "1", ...env } };
  return await commandOutput(Deno.execPath(), [...words, ...args], options);
}

Deno.test("deno task compile refuses targets without a QUIC library, and unknown options", async () => {
  const target = await task("compile", ["--target=aarch64-pc-windows-msvc"]);
  assertEquals(target.code, 2);
  assertStringIncludes(target.stderr, "no build for aarch64-pc-windows-msvc, only for x86_64-");
  const option = await task("compile", ["--targett=x"]);
  assertEquals(option.code, 2);
  assertStringIncludes(option.stderr, "--targett");
});

/** A program that builds images and writes down what it is told, and a `git` that knows no commit. */
async function fakeBuilder(name: string, exitCode = 0) {
  const folder = await temporaryFolder();
  const dir = folder.path;
  const program = (name: string, script: string) =>
    Deno.writeTextFile(`${dir}/${name}`, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  // Without its engine, such as a daemon that does not run.
  for (const builder of ["docker", "podman", "buildah"]) await program(builder, "exit 1");
  const work = `echo "$@" >>${dir}/calls; exit ${exitCode}`;
  await program(name, `case $1 in version) exit 0 ;; *) ${work} ;; esac`);
  await program("git", "exit 1");
  return Object.assign(folder, {
    env: { PATH: `${dir}:${Deno.env.get("PATH")}`, COMMIT: "abc", BUILDER: "" },
    calls: () => Deno.readTextFileSync(`${dir}/calls`).trim().split("\n"),
  });
}

const images = stagesOf(dockerfile).map(({ name }) => name).filter((name) => name !== "build");

/** What is said to build an image. */
function buildCall(image: string, reference: string, source = ""): string {
  const label = "--label=org.opencontainers.image";
  const labels = `${label}.revision=abc ${label}.version=${project.version} ` +
    `${label}.licenses=${project.license}`;
  return `build --target=${image} --build-arg=COMMIT=abc ${source}${labels} --tag=${reference} .`;
}

for (const name of ["docker", "podman", "buildah"]) {
  Deno.test(`deno task docker-images builds each image of the Dockerfile with ${name}, if only that works`, async () => {
    await using builder = await fakeBuilder(name);
    const { code, stderr } = await task("docker-images", [], builder.env);
    assertEquals(code, 0, stderr);
    assertEquals(
      builder.calls(),
      images.map((name) => buildCall(name, `${name}:${project.version}`)),
    );
  });
}

Deno.test("deno task docker-images takes the builder, the names and the source that it is told, and pushes", async () => {
  await using builder = await fakeBuilder("buildah");
  const names = { REGISTRY: "registry.example:5000/team", IMAGE_TAG: "v1" };
  const env = { ...builder.env, ...names, BUILDER: "buildah", SOURCE: "https://git.example/x" };
  const pushed = await task("docker-images", ["--push"], env);
  assertEquals(pushed.code, 0, pushed.stderr);
  const references = images.map((name) => `registry.example:5000/team/${name}:v1`);
  assertEquals(pushed.stdout.trim().split("\n"), references);
  const source = "--label=org.opencontainers.image.source=https://git.example/x ";
  assertEquals(builder.calls(), [
    ...images.map((name, i) => buildCall(name, references[i]!, source)),
    ...references.map((reference) => `push ${reference}`),
  ]);
});

Deno.test("deno task docker-images says what is wrong", async () => {
  await using builder = await fakeBuilder("docker", 1);
  const failureOf = async (env: Record<string, string>) => {
    const { code, stderr } = await task("docker-images", [], { ...builder.env, ...env });
    return [code, stderr];
  };
  assertEquals(await failureOf({}), [1, "docker-images: docker build failed\n"]);
  assertEquals(await failureOf({ REGISTRY: "https://x" }), [
    2,
    'docker-images: REGISTRY is not a registry and path: "https://x"\n',
  ]);
  assertEquals(await failureOf({ IMAGE_TAG: "a b" }), [
    2,
    'docker-images: IMAGE_TAG is not a tag: "a b"\n',
  ]);
  assertEquals(await failureOf({ BUILDER: "kaniko" }), [
    2,
    'docker-images: BUILDER is not one of docker, podman, buildah: "kaniko"\n',
  ]);
  await Deno.writeTextFile(`${builder.path}/docker`, "#!/bin/sh\nexit 1\n");
  assertEquals(await failureOf({}), [
    1,
    "docker-images: none of docker, podman, buildah works here\n",
  ]);
});

Deno.test("released images have the labels that deno task docker-images gives", async () => {
  await using builder = await fakeBuilder("docker");
  await task("docker-images", [], { ...builder.env, SOURCE: "https://git.example/x" });
  const names = (text: string) =>
    [...text.matchAll(/org\.opencontainers\.image\.\w+(?==)/g)]
      .map(([name]) => name);
  const released = names(read(".github/workflows/release.yml"));
  assertEquals(released, names(builder.calls()[0]!));
});

Deno.test("the Dockerfile has no fault that a linter finds", () => {
  assertEquals(validate(dockerfile), []);
  assert(validate(dockerfile.replace("COPY lib", "CPY lib")).length > 0, "finds a fault");
});

Deno.test("the Dockerfile builds with the Deno of the README, as an unprivileged user's images", () => {
  const readme = read("README.md");
  const [, deno] = /npx -y (deno@\S+) task compile/.exec(dockerfile)!;
  assertStringIncludes(readme, `npx -y ${deno} task`);
  for (const { name, base } of stagesOf(dockerfile).filter(({ name }) => name !== "build")) {
    assertMatch(base, /^gcr\.io\/distroless\/cc-debian12:nonroot$/, name);
  }
});

Deno.test("the Dockerfile copies, and its ignore file lets through, all that the programs are made of", async () => {
  const { copies } = stagesOf(dockerfile).find(({ name }) => name === "build")!;
  const copied = copies.flatMap(({ files }) => files);
  const ignore = read(".dockerignore");
  const lines = ignore.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  assertEquals(lines, ["*", ...copied.map((name) => `!${name}`)]);
  const programs = ["server.ts", "agent.ts", "passthrough.ts", "release/compile.ts"];
  for (const program of programs) {
    const paths = [...await importsOf(program)].flat(2).filter((path) => !path.includes(":"));
    assert(paths.includes(program) && paths.includes("deno.json"));
    const missing = paths.filter((path) =>
      !copied.some((name) => path === name || path.startsWith(`${name}/`))
    );
    assertEquals(missing, [], program);
  }
});
