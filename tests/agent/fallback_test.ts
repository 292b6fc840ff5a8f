// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertThrows } from "@std/assert";
import { dialOptionsOf } from "../../lib/agent/carrier.ts";
import { parseFallback } from "../../lib/agent/fallback.ts";
import { DEFAULT_TEMPLATE } from "../../lib/connect_udp/uri_template.ts";
import { parseHttpProxy } from "../../lib/connect_udp/http_proxy.ts";
import { parseNoProxy } from "../../lib/connect_udp/no_proxy.ts";
import { NotParsedError } from "../../lib/errors.ts";
import type { Authority } from "../../lib/net/authority.ts";
import { pureTest as test } from "../support/pure_test.ts";

test("parseFallback() takes an address", () => {
  assertEquals(parseFallback("proxy.example:443"), {
    server: { hostname: "proxy.example", port: 443 },
  });
  assertEquals(parseFallback("[2001:db8::1]:8443").server.hostname, "2001:db8::1");
});

test("parseFallback() takes a URL, whose host is the name in the certificate", () => {
  const template = "/udp/{target_host}/{target_port}";
  const cases: [text: string, hostname: string, port: number, template: string][] = [
    ["https://proxy.example", "proxy.example", 443, DEFAULT_TEMPLATE],
    ["HTTPS://proxy.example/", "proxy.example", 443, DEFAULT_TEMPLATE],
    ["https://proxy.example:8443/", "proxy.example", 8443, DEFAULT_TEMPLATE],
    [`https://[2001:db8::1]:8443${template}`, "2001:db8::1", 8443, template],
    [
      "https://p.example/m?h={target_host}&p={target_port}",
      "p.example",
      443,
      "/m?h={target_host}&p={target_port}",
    ],
  ];
  for (const [text, hostname, port, template] of cases) {
    assertEquals(parseFallback(text), {
      server: { hostname, port },
      url: { host: hostname, template },
    });
  }
});

test("parseFallback() says what is wrong", () => {
  const cases: [text: string, problem: string][] = [
    ["", "it is empty"],
    ["proxy.example", "no port"],
    [":443", "host"],
    ["proxy.example:443/udp", "not host:port"],
    ["http://proxy.example:443", "neither host:port nor an https URL"],
    ["https://", "host"],
    ["https://user:secret@proxy.example/", "user information is not allowed"],
    ["https://proxy.example:99999", "not in 1 to 65535"],
    ["https://proxy.example/udp", "not exactly one {target_host}"],
    ["https://proxy.example/{target_host}/{x}", "unknown variable {x}"],
    ["https://proxy.example?a", "does not begin with /"],
  ];
  for (const [text, problem] of cases) {
    const error = assertThrows(() => parseFallback(text), NotParsedError, problem);
    assertEquals(error.message.includes("secret"), false, error.message);
  }
});

test("dialOptionsOf() heeds NO_PROXY for a server that is given by its name", () => {
  const [address, other] = ["192.0.2.1", "192.0.2.2"].map((hostname) => ({ hostname, port: 443 }));
  const internal = { hostname: "tunnel.internal", port: 443 };
  const external = { hostname: "tunnel.example", port: 443 };
  const nothing = new Uint8Array();
  const isProxied = (servers: readonly Authority[], text: string, fallback?: string) =>
    dialOptionsOf(address!, {
      tls: { ca: nothing, cert: nothing, key: nothing },
      serverName: "a",
      servers,
      proxy: parseHttpProxy("proxy.example:3128"),
      noProxy: parseNoProxy(text),
      ...(fallback !== undefined && { fallback: parseFallback(fallback) }),
    }).proxy !== undefined;
  assertEquals(isProxied([internal], ".internal"), false);
  assertEquals(isProxied([internal, other!], ".internal"), false);
  assertEquals(isProxied([external], ".internal"), true);
  assertEquals(isProxied([external], "192.0.2.0/24"), false);
  // It is not known which of them the address belongs to.
  assertEquals(isProxied([internal, external], ".internal"), true);
  assertEquals(isProxied([internal, address!], ".internal"), true);
  assertEquals(isProxied([internal], ".internal", "fallback.example:443"), true);
  assertEquals(isProxied([external], "fallback.example", "fallback.example:443"), false);
});
