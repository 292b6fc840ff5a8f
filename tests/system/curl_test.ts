// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** curl as the client of the programs, and of the demo. */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { Demo } from "../support/demo.ts";
import { patternStream, sha256 } from "../support/pattern.ts";
import { Site } from "../support/site.ts";
import { runCommand } from "../support/system_command.ts";

const GIGABYTE = 1_000_000_000;

Deno.test("curl -p --proxy downloads and uploads 1 GB through server and agent", async () => {
  await using site = await Site.start();
  const { tcpPort, quic } = await site.server();
  await site.agent(quic);
  const expected = await sha256(patternStream(GIGABYTE));
  const curl = (path: string, ...options: string[]) => {
    const proxy = ["-p", "--proxy", `localhost:${tcpPort}`];
    const url = `http://${site.origin}${path}`;
    return new Deno.Command("curl", {
      args: ["-sS", "--max-time", "300", ...proxy, ...options, url],
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
  };
  const down = curl(`/bytes/${GIGABYTE}`);
  await down.stdin.close();
  assertEquals(await sha256(down.stdout), expected);
  assertEquals((await down.status).code, 0);

  const up = curl("/", "-X", "POST", "-H", "Expect:", "-T", "-");
  await patternStream(GIGABYTE).pipeTo(up.stdin);
  const { code, stdout } = await up.output();
  assertEquals(new TextDecoder().decode(stdout).trim(), expected);
  assertEquals(code, 0);
});

/** What curl gets through the agent: the answer to its CONNECT, and the origin's to its request. */
async function answersTo(tcpPort: number, host: string, port: number) {
  const proxy = ["-p", "--proxy", `127.0.0.1:${tcpPort}`];
  const shown = ["-sv", "-w", " %{http_connect} %{http_code}", "-o", "/dev/null"];
  const args = ["--max-time", "20", ...proxy, ...shown, `http://${host}:${port}/`];
  const { stdout, stderr } = await runCommand("curl", args);
  const [, reason] = /^< HTTP\/1\.1 \d+ (.*?)\r?$/m.exec(stderr) ?? [];
  return { codes: stdout.trim(), reason };
}

Deno.test("proxy-agent keeps curl to --allow and --deny, names of the system included", async () => {
  await using site = await Site.start();
  const { tcpPort, quic } = await site.server();
  const originPort = Number(site.origin.split(":")[1]);
  {
    await using _agent = await site.agent(quic, {
      allow: `127.0.0.0/8:${originPort},*.invalid`,
      deny: "127.0.0.2,*.denied.invalid",
    });
    const reached = { codes: "200 200", reason: "OK" };
    assertEquals(await answersTo(tcpPort, "127.0.0.1", originPort), reached);
    assertEquals(await answersTo(tcpPort, "localhost", originPort), reached);
    const denied: [host: string, port: number, reason: string][] = [
      ["127.0.0.1", 1, "denied: no --allow rule matches"],
      ["[::1]", originPort, "denied: no --allow rule matches"],
      ["127.0.0.2", originPort, "denied by --deny 127.0.0.2"],
      ["a.denied.invalid", 80, "denied by --deny *.denied.invalid"],
      ["169.254.169.254", 80, "denied by default rule link-local 169.254.0.0/16"],
    ];
    for (const [host, port, reason] of denied) {
      assertEquals(await answersTo(tcpPort, host, port), {
        codes: "403 000",
        reason: `${host}:${port}: ${reason}`,
      });
    }
    assertEquals(await answersTo(tcpPort, "a.invalid", 80), {
      codes: "502 000",
      reason: "a.invalid:80: name does not resolve",
    });
  }
  await site.agent(quic, {}, { QRHT_DENY: "localhost,10.0.0.0/8" });
  const { codes, reason } = await answersTo(tcpPort, "localhost", originPort);
  assertEquals([codes, reason], [
    "403 000",
    `localhost:${originPort}: denied by --deny localhost`,
  ]);
});

Deno.test("proxy-server answers curl itself where there is no agent", async () => {
  await using site = await Site.start();
  const { tcpPort, quic } = await site.server({ mode: "http-connect" });
  const [host, port] = site.origin.split(":");
  assertEquals(await answersTo(tcpPort, host!, Number(port)), {
    codes: "503 000",
    reason: "no agent is connected",
  });
  await site.agent(quic);
  assertEquals(await answersTo(tcpPort, host!, Number(port)), { codes: "200 200", reason: "OK" });
});

Deno.test("demo shows commands that work as they are", async () => {
  await using demo = new Demo();
  await demo.shows(/Press Ctrl-C to stop/);
  for (const line of [/^ +(curl -p .+)$/, /^ +(curl --noproxy .+)$/]) {
    const command = `${await demo.shows(line)} --silent --show-error --max-time 20`;
    const { code, stdout, stderr } = await runCommand("sh", ["-c", command]);
    assertEquals(code, 0, stderr);
    assertStringIncludes(stdout, "Hello from the origin");
  }
  demo.kill("SIGINT");
  assertEquals(await demo.code(), 0, demo.output);
});
