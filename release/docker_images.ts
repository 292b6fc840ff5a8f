// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- a command for the terminal, which logs nothing

/** `deno task docker-images`: builds and tags the images of the `Dockerfile`. */
import { messageOf, UsageError } from "../lib/errors.ts";
import { version } from "../lib/version.ts";
import { parseCommandLine } from "../tools/command_line.ts";
import { commit } from "./commit.ts";

const HELP = `Builds the images quic-server, quic-client and quic-client-tcp.

Usage: deno task docker-images [options]

  --push   also push them
  --help   show this help

Environment:
  REGISTRY    prefix of their names, such as registry.example/team (default: none)
  IMAGE_TAG   their tag (default: the version, ${version})
  COMMIT      the commit to show in --version, if git is not available`;

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

async function docker(...args: string[]): Promise<void> {
  const { success } = await new Deno.Command("docker", { args, stdin: "null" }).spawn().status;
  if (!success) throw new Error(`docker ${args[0]} failed`);
}

try {
  const { push, help } = parseCommandLine(Deno.args, { switches: ["push"] });
  if (help) {
    console.log(HELP);
  } else {
    const references = images.map(referenceOf);
    const revision = await commit();
    for (const [i, image] of images.entries()) {
      const tag = `--tag=${references[i]}`;
      await docker("build", `--target=${image}`, `--build-arg=COMMIT=${revision}`, tag, ".");
    }
    for (const reference of push ? references : []) await docker("push", reference);
    for (const reference of references) console.log(reference);
  }
} catch (error) {
  console.error(`docker-images: ${messageOf(error)}`);
  Deno.exit(error instanceof UsageError ? 2 : 1);
}
