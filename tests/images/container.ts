// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Containers of the images that `deno task docker-images` has built, as a cluster that grants nothing runs them. */
import { type CommandOutput, commandOutput } from "../../tools/command_output.ts";
import { flagArguments, type Flags } from "../../tools/project_program.ts";
import { ChildProgram } from "../support/processes.ts";

/** The images as the README's command names them. */
const REPOSITORY = "registry.example/team";
const TAG = "v1";

/** runc and cgroupfs also work where there is no systemd, and with both versions of control groups. */
const ENGINE = ["--runtime=runc", "--cgroup-manager=cgroupfs"];

/** Limits that need no privilege. */
const LIMITS = ["--ulimit=nofile=4096:4096", "--ulimit=nproc=1024:1024"];

export type Image = "quic-server" | "quic-client" | "quic-client-tcp";

/** Options of {@linkcode startContainer}. */
export interface ContainerOptions {
  /** Folders of this machine, by their paths in the container. */
  readonly volumes?: Readonly<Record<string, string>>;
  /** Whether its root file system may be written to. @default {false} */
  readonly writable?: boolean;
}

/** Runs podman. */
export function podman(...args: string[]): Promise<CommandOutput> {
  return commandOutput("podman", [...ENGINE, ...args]);
}

export function referenceOf(image: Image): string {
  return `${REPOSITORY}/${image}:${TAG}`;
}

/** Starts a container of an image: without capabilities, in a read-only root, in the network of this machine. */
export function startContainer(
  image: Image,
  flags: Flags,
  { volumes = {}, writable = false }: ContainerOptions = {},
): ChildProgram {
  const name = `${image}-${crypto.randomUUID()}`;
  const mounts = Object.entries(volumes).map(([path, folder]) => `--volume=${folder}:${path}`);
  return new Container(name, [
    "run",
    `--name=${name}`,
    "--network=host",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    ...LIMITS,
    ...(writable ? [] : ["--read-only", "--read-only-tmpfs=false"]),
    ...mounts,
    referenceOf(image),
    ...flagArguments(flags),
  ]);
}

/** `podman run` in the foreground: it passes signals on to process 1, and ends with its exit code. */
class Container extends ChildProgram {
  constructor(name: string, args: readonly string[]) {
    super("podman", [...ENGINE, ...args], { name });
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    await super[Symbol.asyncDispose]();
    await podman("rm", "--force", "--ignore", "--volumes", this.name);
  }
}
