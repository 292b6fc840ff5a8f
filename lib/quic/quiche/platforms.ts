// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** A kind of machine, as `Deno.build` describes it. */
export interface Platform {
  readonly os: string;
  readonly arch: string;
  /** Target triple, as `deno compile --target` takes it. */
  readonly target: string;
}

/** Those that the QUIC library is built for. */
export const platforms: readonly Platform[] = [
  { os: "linux", arch: "x86_64", target: "x86_64-unknown-linux-gnu" },
  { os: "darwin", arch: "x86_64", target: "x86_64-apple-darwin" },
  { os: "darwin", arch: "aarch64", target: "aarch64-apple-darwin" },
  { os: "windows", arch: "x86_64", target: "x86_64-pc-windows-msvc" },
];

/** Others, for which Deno's own QUIC makes the programs that need no library: agents. */
export const agentPlatforms: readonly Platform[] = [
  { os: "linux", arch: "aarch64", target: "aarch64-unknown-linux-gnu" },
];

/** Says that there is no library for a target; undefined when there is one. */
export function unsupported(target: string): string | undefined {
  if (platforms.some((platform) => platform.target === target)) return undefined;
  const names = platforms.map((platform) => platform.target).join(", ");
  return `the QUIC library has no build for ${target}, only for ${names}: ` +
    "proxy-server does not run here, and agents need --quic-library=deno";
}
