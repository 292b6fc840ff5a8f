// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertStringIncludes } from "@std/assert";
import { bypassesProxy } from "../../lib/connect_udp/no_proxy.ts";
import { parseFlags } from "../../lib/cli/parse_flags.ts";
import { chooseProxy } from "../../lib/cli/http_proxy.ts";
import { agentFlags } from "../../lib/cli/program_flags.ts";
import { messageOf } from "../../lib/errors.ts";
import { pureTest as test } from "../support/pure_test.ts";

/** What is chosen by the flag, if it is given, and by an environment. */
function choose(flag: string | undefined, env: Record<string, string> = {}) {
  const required = ["--ca-file=a", "--cert-file=c", "--cert-key=k"];
  const args = flag === undefined ? required : [...required, `--proxy=${flag}`];
  const parsed = parseFlags(agentFlags, args, { get: () => undefined });
  if (parsed.kind !== "run") throw new Error("unexpected");
  const { proxy, noProxy, problem } = chooseProxy(parsed.values, (name) => env[name]);
  return { proxy: proxy && `${proxy}`, noProxy, problem };
}

const proxyOf = (flag: string | undefined, env?: Record<string, string>) => choose(flag, env).proxy;

test("chooseProxy() prefers the flag to the environment", () => {
  const env = { HTTPS_PROXY: "http://a.example:1", https_proxy: "http://b.example:2" };
  assertEquals(proxyOf("http://u:p@c.example:3", env), "http://u:***@c.example:3");
  assertEquals(choose("http://c.example:3", { ...env, NO_PROXY: "*" }).noProxy, undefined);
  assertEquals(proxyOf("none", env), undefined);
  assertEquals(proxyOf(undefined, env), "http://a.example:1");
  assertEquals(proxyOf(undefined, { https_proxy: env.https_proxy }), "http://b.example:2");
  assertEquals(proxyOf(undefined, { HTTPS_PROXY: "", https_proxy: "" }), undefined);
  assertEquals(proxyOf(undefined), undefined);
});

test("chooseProxy() takes the exceptions of the environment", () => {
  const env = { https_proxy: "a.example:1", no_proxy: "10.0.0.0/8,.internal" };
  const { noProxy } = choose(undefined, env);
  const bypassed = ["10.1.2.3", "x.internal", "proxy.example"].map((hostname) =>
    bypassesProxy(noProxy!, { hostname, port: 1 })
  );
  assertEquals(bypassed, [true, true, false]);
});

test("chooseProxy() uses no proxy of the environment that it does not understand, and says so", () => {
  const socks = choose(undefined, { HTTPS_PROXY: "socks5://user:secret@a.example:1" });
  assertEquals(socks.proxy, undefined);
  assertStringIncludes(socks.problem!, "HTTPS_PROXY: ");
  assertEquals(socks.problem!.includes("secret"), false);
  const exceptions = choose(undefined, { https_proxy: "a.example:1", NO_PROXY: "x/y,b.example" });
  assertEquals(exceptions.proxy, "http://a.example:1");
  assertStringIncludes(exceptions.problem!, "NO_PROXY: invalid");
});

test("--proxy does not show the password of a wrong value", () => {
  for (
    const value of [
      "socks5://u:secret@h:1",
      "http://u:secret@h",
      "u:secret@h:0",
      "http://u:sec ret@",
    ]
  ) {
    try {
      choose(value);
      throw new Error(`taken: ${value}`);
    } catch (error) {
      const message = messageOf(error);
      assertStringIncludes(message, "--proxy");
      assertEquals(/sec ?ret/.test(message), false, message);
    }
  }
});
