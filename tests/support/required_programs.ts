// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The programs of the system that tests run: these tests have folders and tasks of their own, apart from `deno task test`. */

import { statSync } from "node:fs";

/** Tests of a folder below `tests/`. */
export interface SystemTests {
  /** The task that runs them. */
  readonly task: string;
  /** The programs that they run, or files by their path, and the Debian package that has each. */
  readonly programs: Readonly<Record<string, string>>;
}

/** Folders of tests that need more than Node and npm. */
export const SYSTEM_TESTS = {
  arm64: {
    task: "test-arm64",
    programs: { "apt-get": "apt", curl: "curl", "dpkg-deb": "dpkg", tar: "tar" },
  },
  binaries: {
    task: "test-binaries",
    programs: { curl: "curl", ip: "iproute2", setpriv: "util-linux" },
  },
  browser: {
    task: "browser",
    programs: { chromium: "chromium", unshare: "util-linux" },
  },
  images: {
    task: "test-images",
    programs: {
      "apt-get": "apt",
      buildah: "buildah",
      curl: "curl",
      dpkg: "dpkg",
      podman: "podman",
      runc: "runc",
    },
  },
  interop: {
    task: "interop",
    programs: {
      "/usr/lib/python3/dist-packages/requests/__init__.py": "python3-requests",
      "/usr/lib/python3/dist-packages/socks.py": "python3-socks",
      "/usr/lib/nginx/modules/ngx_stream_module.so": "libnginx-mod-stream",
      "apt-get": "apt",
      curl: "curl",
      "dpkg-deb": "dpkg",
      git: "git",
      haproxy: "haproxy",
      ip: "iproute2",
      java: "default-jdk-headless",
      keytool: "default-jdk-headless",
      kubectl: "kubernetes-client",
      mariadb: "mariadb-client",
      mariadbd: "mariadb-server",
      "mariadb-install-db": "mariadb-server",
      "nc.openbsd": "netcat-openbsd",
      nginx: "nginx-light",
      openssl: "openssl",
      pg_virtualenv: "postgresql",
      pip: "python3-pip",
      psql: "postgresql-client",
      python3: "python3",
      scp: "openssh-client",
      skopeo: "skopeo",
      smtpd: "opensmtpd",
      squid: "squid",
      ssh: "openssh-client",
      "ssh-keygen": "openssh-client",
      sshd: "openssh-server",
      timeout: "coreutils",
      tinyproxy: "tinyproxy",
      unshare: "util-linux",
      wget: "wget",
    },
  },
  system: {
    task: "test-system",
    programs: {
      bash: "bash",
      curl: "curl",
      fish: "fish",
      groff: "groff-base",
      ip: "iproute2",
      iptables: "iptables",
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
export const DIRECTORIES = [
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
  const paths = name.startsWith("/") ? [name] : DIRECTORIES.map((dir) => `${dir}/${name}`);
  return paths
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
