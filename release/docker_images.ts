// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- a command for the terminal, which logs nothing

/** `deno task docker-images`: builds and tags the images of the `Dockerfile`. */
import project from "../deno.json" with { type: "json" };
import { messageOf, UsageError } from "../lib/errors.ts";
import { version } from "../lib/version.ts";
import { parseCommandLine } from "../tools/command_line.ts";
import { commandOutput } from "../tools/command_output.ts";
import { commit } from "./commit.ts";

const HELP = `Builds the images quic-server, quic-client and quic-client-tcp.

Usage: deno task docker-images [options]

  --push   also push them
  --help   show this help

Environment:
  REGISTRY    prefix of their names, such as registry.example/team (default: none)
  IMAGE_TAG   their tag (default: the version, ${version})
  BUILDER     docker, podman or buildah (default: the first of them that works)
  COMMIT      the commit to show in --version, if git is not available
  SOURCE      the URL of the repository, for a label of the images (default: none)`;

const images = ["quic-server", "quic-client", "quic-client-tcp"];

/** Registry and path, as references to images have them. */
const REGISTRY = /^[a-z0-9.-]+(?::\d+)?(?:\/[a-z0-9._-]+)*$/;
const TAG = /^\w[\w.-]{0,127}$/;

/** What the images are called. */
function referenceOf(image: string): string {
  const registry = Deno.env.get("REGISTRY") ?? "";
  const tag = Deno.env.get("IMAGE_TAG") || version;
  if (registry && !REGISTRY.test(registry)) {
    throw new UsageError(`REGISTRY is not a registry and path: ${JSON.stringify(registry)}`);
  }
  if (!TAG.test(tag)) throw new UsageError(`IMAGE_TAG is not a tag: ${JSON.stringify(tag)}`);
  return `${registry && `${registry}/`}${image}:${tag}`;
}

/** Programs that build images; all take the same arguments. */
const builders = ["docker", "podman", "buildah"];

/** The one to build with: a `docker` without its engine does not work. */
async function findBuilder(): Promise<string> {
  const given = Deno.env.get("BUILDER");
  if (given) {
    if (builders.includes(given)) return given;
    throw new UsageError(`BUILDER is not one of ${builders.join(", ")}: ${JSON.stringify(given)}`);
  }
  for (const name of builders) {
    const works = await commandOutput(name, ["version"]).then(
      ({ success }) => success,
      () => false,
    );
    if (works) return name;
  }
  throw new Error(`none of ${builders.join(", ")} works here`);
}

/** Labels of the images, as the OCI image specification names them. */
function labelsOf(revision: string): string[] {
  const labels = {
    source: Deno.env.get("SOURCE"),
    revision,
    version,
    licenses: project.license,
  };
  return Object.entries(labels).filter(([, value]) => value)
    .map(([name, value]) => `--label=org.opencontainers.image.${name}=${value}`);
}

async function run(builder: string, ...args: string[]): Promise<void> {
  // Buildah keeps the programs, which all images are built from, only if it is told to.
  const env = { BUILDAH_LAYERS: "true" };
  const { success } = await new Deno.Command(builder, { args, env, stdin: "null" }).spawn().status;
  if (!success) throw new Error(`${builder} ${args[0]} failed`);
}

try {
  const { push, help } = parseCommandLine(Deno.args, { switches: ["push"] });
  if (help) {
    console.log(HELP);
  } else {
    const references = images.map(referenceOf);
    const builder = await findBuilder();
    const revision = await commit();
    for (const [i, image] of images.entries()) {
      const args = [`--target=${image}`, `--build-arg=COMMIT=${revision}`, ...labelsOf(revision)];
      await run(builder, "build", ...args, `--tag=${references[i]}`, ".");
    }
    for (const reference of push ? references : []) await run(builder, "push", reference);
    for (const reference of references) console.log(reference);
  }
} catch (error) {
  console.error(`docker-images: ${messageOf(error)}`);
  Deno.exit(error instanceof UsageError ? 2 : 1);
}
