// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { temporaryFolder } from "../../support/temporary_folder.ts";
import { run } from "./programs.ts";
import { freePort, Service } from "./service.ts";

/** The name that the client's configuration gives to the server. */
const HOST = "interop";

/** An OpenSSH server, and what a client needs to log in to it as the user who runs the tests. */
export interface OpenSsh extends AsyncDisposable {
  readonly port: number;
  /** A directory for the test's own files. */
  readonly dir: string;
  /** The name of the server in `ssh` and `scp` commands. */
  readonly host: string;
  /** Writes a client configuration with these lines beside the usual; returns the arguments that name it. */
  client(...lines: string[]): Promise<string[]>;
}

/** Starts `sshd` with a host key of its own, open to one key of its own and to nothing else. */
export async function startOpenSsh(): Promise<OpenSsh> {
  await using stack = new AsyncDisposableStack();
  const { path: dir } = stack.use(await temporaryFolder());
  for (const key of ["host_key", "client_key"]) {
    await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", key, "-f", `${dir}/${key}`]);
  }
  await Deno.copyFile(`${dir}/client_key.pub`, `${dir}/authorized_keys`);
  const hostKey = await Deno.readTextFile(`${dir}/host_key.pub`);
  await Deno.writeTextFile(`${dir}/known_hosts`, `${HOST} ${hostKey}`);

  const port = freePort();
  await Deno.writeTextFile(
    `${dir}/sshd_config`,
    `
ListenAddress 127.0.0.1:${port}
HostKey ${dir}/host_key
AuthorizedKeysFile ${dir}/authorized_keys
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
UseDNS no
PidFile none
MaxStartups 100
Subsystem sftp internal-sftp
`,
  );
  // Run by root, it wants the empty directory that a service manager makes otherwise.
  if (Deno.uid() === 0) await Deno.mkdir("/run/sshd", { recursive: true, mode: 0o755 });
  stack.use(await Service.start("sshd", ["-D", "-e", "-f", `${dir}/sshd_config`], port));

  let configurations = 0;
  const client = async (...lines: string[]) => {
    const path = `${dir}/ssh_config-${++configurations}`;
    await Deno.writeTextFile(
      path,
      `
Host ${HOST}
${lines.join("\n")}
HostKeyAlias ${HOST}
IdentityFile ${dir}/client_key
IdentitiesOnly yes
IdentityAgent none
UserKnownHostsFile ${dir}/known_hosts
GlobalKnownHostsFile /dev/null
StrictHostKeyChecking yes
BatchMode yes
ConnectTimeout 15
ExitOnForwardFailure yes
`,
    );
    return ["-F", path];
  };
  const rest = stack.move();
  return { port, dir, host: HOST, client, [Symbol.asyncDispose]: () => rest.disposeAsync() };
}
