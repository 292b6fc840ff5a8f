// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import {
  closedFolder,
  formatMode,
  listenUnix,
  type UnixSocket,
  UnixSocketError,
} from "../../lib/net/unix_listener.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

const ignore = Deno.build.os === "windows";

function test(name: string, fn: (folder: string) => Promise<void>): void {
  Deno.test({
    name,
    ignore,
    fn: async () => {
      await using folder = await temporaryFolder();
      await fn(folder.path);
    },
  });
}

const listen = (path: string, mode = 0o660) => listenUnix({ path, mode });
const filesIn = (folder: string) => Array.from(Deno.readDirSync(folder), ({ name }) => name);

async function assertServes(socket: UnixSocket, path = socket.path): Promise<void> {
  const [client, accepted] = await Promise.all([
    Deno.connect({ transport: "unix", path }),
    socket.accept(),
  ]);
  client.close();
  accepted.close();
}

/** Leaves the file that a program leaves when it is killed. */
function leaveStale(path: string): void {
  const listener = Deno.listen({ transport: "unix", path: `${path}.old` });
  Deno.renameSync(`${path}.old`, path);
  listener.close();
}

async function assertFails(path: string, problem: RegExp, group?: string): Promise<void> {
  const error = await assertRejects(
    () => listenUnix({ path, mode: 0o660, group }),
    UnixSocketError,
  );
  assertMatch(error.message, problem);
}

test("listenUnix() binds a socket with its mode, and nothing is left after close()", async (folder) => {
  for (const mode of [0o600, 0o660, 0o666]) {
    const socket = await listen(`${folder}/s`, mode);
    assertEquals(formatMode(Deno.lstatSync(`${folder}/s`).mode!), formatMode(mode));
    await assertServes(socket);
    assertEquals(filesIn(folder), ["s"]);
    socket.close();
    socket.close();
    assertEquals(filesIn(folder), []);
  }
});

test("listenUnix() shows the socket to nobody before it has its permissions", async (folder) => {
  const seen: string[] = [];
  const { chmodSync } = Deno;
  Deno.chmodSync = (path, mode) => {
    const parent = `${path}`.replace(/\/[^/]*$/, "");
    seen.push(`${filesIn(folder).length} ${formatMode(Deno.lstatSync(parent).mode! & 0o777)}`);
    chmodSync(path, mode);
  };
  try {
    (await listen(`${folder}/s`)).close();
  } finally {
    Deno.chmodSync = chmodSync;
  }
  assertEquals(seen, ["1 0700"]);
});

test("listenUnix() gives the file to a group, by number or name", async (folder) => {
  const { gid } = Deno.lstatSync(folder);
  const [name] = Deno.readTextFileSync("/etc/group").split("\n").map((line) => line.split(":"))
    .find(([, , id]) => id === `${gid}`)!;
  for (const group of [`${gid}`, name!]) {
    const socket = await listenUnix({ path: `${folder}/s`, mode: 0o660, group });
    assertEquals(socket.file.gid, gid);
    socket.close();
  }
  await assertFails(
    `${folder}/s`,
    /^\/etc\/group has no group nobody-has-it; use its number$/,
    "nobody-has-it",
  );
  await assertFails(`${folder}/s`, /^4294967295 is no number of a group$/, "4294967295");
  assertEquals(filesIn(folder), []);
});

test("listenUnix() replaces the file of a program that was killed", async (folder) => {
  leaveStale(`${folder}/s`);
  const socket = await listen(`${folder}/s`);
  await assertServes(socket);
  socket.close();
  assertEquals(filesIn(folder), []);
});

test("listenUnix() leaves the socket of a program that listens alone", async (folder) => {
  const first = await listen(`${folder}/s`);
  const accepted = first.accept();
  await assertFails(`${folder}/s`, /^another program listens on it/);
  (await accepted).close();
  await assertServes(first);
  assertEquals(filesIn(folder), ["s"]);
  first.close();
});

test("listenUnix() leaves what is no socket alone", async (folder) => {
  Deno.writeTextFileSync(`${folder}/file`, "precious");
  Deno.mkdirSync(`${folder}/folder`);
  leaveStale(`${folder}/s`);
  Deno.symlinkSync(`${folder}/s`, `${folder}/link`);
  for (const name of ["file", "folder", "link"]) {
    await assertFails(`${folder}/${name}`, /^the file is no socket, and is left alone$/);
  }
  assertEquals(Deno.readTextFileSync(`${folder}/file`), "precious");
  assertEquals(filesIn(folder).sort(), ["file", "folder", "link", "s"]);
});

test("listenUnix() gives way to a program that comes between look and bind", async (folder) => {
  const path = `${folder}/s`;
  const { chmodSync } = Deno;
  let other: Deno.UnixListener | undefined;
  Deno.chmodSync = (file, mode) => {
    chmodSync(file, mode);
    other ??= Deno.listen({ transport: "unix", path });
  };
  try {
    await assertFails(path, /^another program listens on it/);
  } finally {
    Deno.chmodSync = chmodSync;
  }
  assertEquals(filesIn(folder), ["s"]);
  other!.close();
});

test("listenUnix() gives way to a program that comes at the last moment", async (folder) => {
  const path = `${folder}/s`;
  const { linkSync, renameSync } = Deno;
  for (const hook of ["linkSync", "renameSync"] as const) {
    let other: Deno.UnixListener | undefined;
    const original = Deno[hook];
    leaveStale(path);
    Deno[hook] = (from, to) => {
      if (!other && hook === "renameSync") Deno.removeSync(path);
      other ??= Deno.listen({ transport: "unix", path });
      original(`${from}`, `${to}`);
    };
    try {
      await assertFails(path, /^another program listens on it/);
    } finally {
      Object.assign(Deno, { linkSync, renameSync });
    }
    const accepted = other!.accept();
    const client = await Deno.connect({ transport: "unix", path });
    (await accepted).close();
    client.close();
    assertEquals(filesIn(folder), ["s"]);
    other!.close();
  }
});

test("UnixSocket.close() leaves the file of a successor", async (folder) => {
  const first = await listen(`${folder}/s`);
  const second = await listen(`${folder}/next`);
  Deno.renameSync(`${folder}/next`, `${folder}/s`);
  first.close();
  await assertServes(second, `${folder}/s`);
  second.close();
});

test("listenUnix() says what a path needs", async (folder) => {
  await assertFails(
    `${folder}/none/s`,
    /; the folder \S+\/none has to exist, and to let the program create files$/,
  );
  await assertFails(
    `${folder}/${"x".repeat(100)}`,
    /x has 1\d\d bytes, and the address of a socket has at most 10[37]$/,
  );
  const { mkdirSync } = Deno;
  Deno.mkdirSync = () => {
    throw new Deno.errors.PermissionDenied("Permission denied (os error 13)");
  };
  try {
    await assertFails(
      `${folder}/s`,
      /^Permission denied.*; the program needs write and search permission in \/\S+, which has mode 0700, uid \d+ and gid \d+$/,
    );
  } finally {
    Deno.mkdirSync = mkdirSync;
  }
});

test("listenUnix() names the permission that the program lacks", async (folder) => {
  const module = import.meta.resolve("../../lib/net/unix_listener.ts");
  const code = `import { listenUnix } from "${module}";
    await Deno.permissions.revoke({ name: "write" });
    const listening = listenUnix({ path: "${folder}/s", mode: 0o600 });
    await listening.catch((error) => console.log(error.message));`;
  const evaluation = new Deno.Command(Deno.execPath(), { args: ["eval", "--no-prompt", code] });
  const { stdout } = await evaluation.output();
  assertMatch(new TextDecoder().decode(stdout), /; the permission is --allow-write=\/\S+\n$/);
});

test("closedFolder() finds the folder that keeps others out", async (folder) => {
  Deno.mkdirSync(`${folder}/open`);
  Deno.chmodSync(folder, 0o755);
  Deno.chmodSync(`${folder}/open`, 0o750);
  const { gid } = Deno.lstatSync(`${folder}/open`);
  const real = Deno.realPathSync(folder);
  assertEquals(closedFolder(`${folder}/open/s`, gid), undefined);
  assertEquals(closedFolder(`${folder}/open/s`, gid! + 1), `${real}/open`);
  Deno.chmodSync(folder, 0o700);
  assertEquals(closedFolder(`${folder}/open/s`, gid), real);
  await Promise.resolve();
});
