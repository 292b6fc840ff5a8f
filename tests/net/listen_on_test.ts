// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertThrows } from "@std/assert";
import { listenOn } from "../../lib/net/listen_on.ts";

const ignore = Deno.build.os === "windows";

/** The hosts that are bound in turn, where binding some of them fails. */
function boundHosts(
  hostname: string,
  failures: Record<string, string> = {},
  isV6Only = false,
): string[] {
  const hosts: string[] = [];
  const open = (host: string) => {
    hosts.push(host);
    const code = failures[host];
    if (code) throw Object.assign(new Error(code), { code });
  };
  listenOn(hostname, open, isV6Only);
  return hosts;
}

Deno.test({
  name: "listenOn() binds both families for an empty host, or IPv4 on a machine without IPv6",
  ignore,
  fn() {
    assertEquals(boundHosts(""), ["::"]);
    for (const code of ["EAFNOSUPPORT", "EADDRNOTAVAIL"]) {
      assertEquals(boundHosts("", { "::": code }), ["::", "0.0.0.0"]);
    }
    assertThrows(() => boundHosts("", { "::": "EADDRINUSE" }), Error, "EADDRINUSE");
  },
});

Deno.test("listenOn() binds IPv4 alone for an empty host where sockets of IPv6 do not take both", () => {
  assertEquals(boundHosts("", {}, true), ["0.0.0.0"]);
  assertEquals(boundHosts("::", {}, true), ["::"]);
});

Deno.test("listenOn() binds the host that is given", () => {
  for (const host of ["::", "0.0.0.0", "127.0.0.1", "localhost"]) {
    assertEquals(boundHosts(host), [host]);
  }
});
