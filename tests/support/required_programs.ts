// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The programs of the system that tests run: these tests have folders and tasks of their own, apart from `deno task test`. */

import { statSync } from "node:fs";

/** Tests of a folder below `tests/`. */
export interface SystemTests {
  /** The task that runs them. */
  readonly task: string;
  /** The programs that they run, and the Debian package that has each. */
  readonly programs: Readonly<Record<string, string>>;
}

/** Folders of tests that need more than Node and npm. */
export const SYSTEM_TESTS = {
  binaries: {
    task: "test-binaries",
    programs: {
      "apt-get": "apt",
      chown: "coreutils",
      cp: "coreutils",
      curl: "curl",
      dpkg: "dpkg",
      find: "findutils",
      ip: "iproute2",
      setpriv: "util-linux",
      unshare: "util-linux",
    },
  },
  browser: { task: "browser", programs: { chromium: "chromium" } },
  interop: {
    task: "interop",
    programs: {
      curl: "curl",
      haproxy: "haproxy",
      mariadb: "mariadb-client",
      mariadbd: "mariadb-server",
      "mariadb-install-db": "mariadb-server",
      nginx: "nginx-light",
      scp: "openssh-client",
      smtpd: "opensmtpd",
      ssh: "openssh-client",
      "ssh-keygen": "openssh-client",
      sshd: "openssh-server",
      timeout: "coreutils",
    },
  },
  system: {
    task: "test-system",
    programs: {
      bash: "bash",
      curl: "curl",
      fish: "fish",
      groff: "groff-base",
      man: "man-db",
      openssl: "openssl",
      promtool: "prometheus",
      script: "bsdutils",
      "systemd-analyze": "systemd",
      zsh: "zsh",
    },
  },
} as const satisfies Record<string, SystemTests>;

/** Daemons live in `sbin`, which is not on the `PATH` of every user, nor is where Go installs itself. */
const DIRECTORIES = [
  "/usr/local/go/bin",
  "/usr/local/sbin",
  "/usr/local/bin",
  "/usr/sbin",
  "/usr/bin",
  "/sbin",
  "/bin",
];

/** The path of a program; undefined if it is not installed. */
export function findProgram(name: string): string | undefined {
  return DIRECTORIES.map((directory) => `${directory}/${name}`)
    .find((path) => statSync(path, { throwIfNoEntry: false })?.isFile());
}

/** The error for a program that is not installed. */
export function missingProgram(name: string): Error {
  const debianPackage = Object.values<SystemTests>(SYSTEM_TESTS)
    .map(({ programs }) => programs[name]).find((found) => found !== undefined);
  const advice = debianPackage === undefined ? "" : `: install the Debian package ${debianPackage}`;
  return new Error(`${name} is missing${advice}`);
}

/** The programs that the tests of a folder run and that are not installed, each with its package. */
export function missingPrograms({ programs }: SystemTests): string[] {
  return Object.entries(programs).filter(([name]) => findProgram(name) === undefined)
    .map(([name, debianPackage]) => `${name} (Debian package ${debianPackage})`);
}
