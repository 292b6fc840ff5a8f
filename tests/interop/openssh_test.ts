// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** OpenSSH through passthrough, and through the agent with CONNECT. */
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { assertEquals, assertMatch } from "@std/assert";
import { patternStream, sha256 } from "../support/pattern.ts";
import { startOrigin } from "../support/processes.ts";
import { Dialogue } from "./support/dialogue.ts";
import { startOpenSsh } from "./support/openssh.ts";
import { run } from "./support/programs.ts";
import { freePort, Service } from "./support/service.ts";
import { startTunnel } from "./support/tunnel.ts";

const FILE_BYTES = 200_000_000;
const BODY_BYTES = 20_000_000;
const SESSIONS = 5;

async function sha256OfFile(path: string): Promise<string> {
  return await sha256((await Deno.open(path)).readable);
}

/** An OpenSSH server behind passthrough, and the arguments that lead a client there. */
async function startSshTunnel() {
  await using stack = new AsyncDisposableStack();
  const ssh = stack.use(await startOpenSsh());
  const tunnel = stack.use(await startTunnel({ upstream: ssh.port }));
  const args = await ssh.client(`HostName ${tunnel.host}`, `Port ${tunnel.port}`);
  const rest = stack.move();
  return { ...ssh, args, [Symbol.asyncDispose]: () => rest.disposeAsync() };
}

Deno.test("ssh -tt through passthrough is an interactive shell on a terminal, with its exit code", async () => {
  await using ssh = await startSshTunnel();
  await using shell = new Dialogue("ssh", [...ssh.args, "-tt", ssh.host]);
  await shell.say("tty; echo $((6 * 7)) is the answer");
  await shell.hear(/echo \$\(\(6 \* 7\)\) is the answer\r\n/);
  await shell.hear(/^\/dev\/pts\/\d+\r\n42 is the answer\r\n/m);
  await shell.say("echo now $((1 + 1)); cat");
  await shell.hear(/now 2\r\n/); // from here on the shell does not read what is typed
  await shell.say("typed into cat");
  await shell.hear(/typed into cat\r\n(?:.*\r\n)*?typed into cat\r\n/);
  await shell.say("\x03"); // Ctrl-C: the terminal of the other end makes a signal of it
  await shell.say("exit 3");
  assertEquals((await shell.status).code, 3, shell.heard);
});

Deno.test("ssh with a command through passthrough carries stdin, stdout, stderr and the exit code", async () => {
  await using ssh = await startSshTunnel();
  const { text, errors } = await run("ssh", [
    ...ssh.args,
    ssh.host,
    "tr a-z A-Z; echo done >&2; exit 7",
  ], { stdin: "hello\n", code: 7 });
  assertEquals(text, "HELLO");
  assertMatch(errors, /^done$/m);
});

Deno.test("scp of 200 MB through passthrough, up and down, leaves every byte as it was", async () => {
  await using ssh = await startSshTunnel();
  const [original, up, down] = ["original", "up", "down"].map((name) => `${ssh.dir}/${name}`);
  await Deno.writeFile(original!, patternStream(FILE_BYTES));
  const expected = await sha256OfFile(original!);
  const slow = { timeoutMs: 60_000 };
  await run("scp", [...ssh.args, "-q", original!, `${ssh.host}:${up}`], slow);
  assertEquals(await sha256OfFile(up!), expected);
  await run("scp", [...ssh.args, "-q", `${ssh.host}:${up}`, down!], slow);
  assertEquals(await sha256OfFile(down!), expected);
});

Deno.test("ssh -L and -R through passthrough forward HTTP, both ways", async (t) => {
  await using ssh = await startSshTunnel();
  await using origin = await startOrigin();
  const forwarded = freePort();
  await using client = await Service.start("ssh", [
    ...ssh.args,
    "-N",
    "-L",
    `127.0.0.1:${forwarded}:127.0.0.1:${origin.port}`,
    "-R",
    `127.0.0.1:0:127.0.0.1:${origin.port}`,
    ssh.host,
  ], forwarded);
  const [, allocated] = await client.line(/Allocated port (\d+) for remote forward/);
  const expected = await sha256(patternStream(BODY_BYTES));
  for (const [name, port] of [["-L", forwarded], ["-R", allocated]]) {
    await t.step(`${name}`, async () => {
      const url = `http://127.0.0.1:${port}`;
      const { bytes } = await run("curl", ["-sSf", `${url}/bytes/${BODY_BYTES}`]);
      assertEquals(createHash("sha256").update(bytes).digest("hex"), expected);
      const { text } = await run("curl", ["-sSf", "--data-binary", "@-", `${url}/`], {
        stdin: "posted",
      });
      assertEquals(text, createHash("sha256").update("posted").digest("hex"));
    });
  }
});

Deno.test(`${SESSIONS} ssh sessions at once through passthrough are ${SESSIONS} separate ones`, async () => {
  await using ssh = await startSshTunnel();
  await using stack = new AsyncDisposableStack();
  const sessions = Array.from(
    { length: SESSIONS },
    () => stack.use(new Dialogue("ssh", [...ssh.args, ssh.host, "cat; echo ended"])),
  );
  await Promise.all(sessions.map((session, i) => session.say(`session ${i}`)));
  await Promise.all(sessions.map((session) => session.hear(/session/)));
  // All of them are up at this moment.
  await Promise.all(sessions.map((session) => session.close()));
  for (const [i, session] of sessions.entries()) {
    assertEquals((await session.status).code, 0);
    await session.hear(/ended/);
    assertEquals(session.heard, `session ${i}\nended\n`);
  }
});

Deno.test("ssh with a ProxyCommand that does CONNECT logs in through the agent", async () => {
  await using ssh = await startOpenSsh();
  await using tunnel = await startTunnel();
  const script = fileURLToPath(new URL("support/connect_proxy.ts", import.meta.url));
  const args = await ssh.client(
    "HostName 127.0.0.1",
    `Port ${ssh.port}`,
    `ProxyCommand '${Deno.execPath()}' run --no-prompt --allow-net=127.0.0.1 '${script}' ${tunnel.port} %h:%p`,
  );
  const { text } = await run("ssh", [...args, ssh.host, "tr a-z A-Z; exit 7"], {
    stdin: "hello\n",
    code: 7,
  });
  assertEquals(text, "HELLO");
  await tunnel.agent.line(new RegExp(`127\\.0\\.0\\.1:${ssh.port}`));
});
