// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { parse } from "parse5";
import type { Status } from "../../lib/observe/status.ts";
import { statusPage, statusPageHeaders } from "../../lib/observe/status_page/mod.ts";
import { linePath, roundUp, windowOf } from "../../lib/observe/status_page/chart.ts";
import { element } from "../../lib/observe/status_page/element.ts";
import {
  formatBytes,
  formatDuration,
  formatLatency,
  formatLeft,
  formatNumber,
  formatPercent,
  formatRate,
  formatTime,
  shorten,
  visible,
} from "../../lib/observe/status_page/format.ts";
import { toHtml } from "../../lib/observe/status_page/html.ts";
import { script } from "../../lib/observe/status_page/script.ts";
import { titleOf } from "../../lib/observe/status_page/view.ts";
import {
  busyStatus,
  HOSTILE_NAMES,
  hostileStatus,
  idleStatus,
  PROGRAMS,
} from "../support/status.ts";
import { pureTest as test } from "../support/pure_test.ts";

const NONCE = "bm9uY2U";

/** What the tests look at of a parsed document. */
interface Parsed {
  readonly nodeName: string;
  readonly value?: string;
  readonly attrs?: readonly { readonly name: string; readonly value: string }[];
  readonly childNodes?: readonly Parsed[];
}

function parsed(status: Status): Parsed {
  const errors: string[] = [];
  const document = parse(statusPage(status, NONCE), {
    sourceCodeLocationInfo: true,
    onParseError: ({ code, startLine }) => errors.push(`${code} in line ${startLine}`),
  });
  assertEquals(errors, []);
  return document as Parsed;
}

const all = (node: Parsed): Parsed[] => [node, ...(node.childNodes ?? []).flatMap(all)];
const named = (node: Parsed, ...names: string[]) =>
  all(node).filter(({ nodeName }) => names.includes(nodeName));
const attribute = (node: Parsed, name: string) =>
  node.attrs?.find((each) => each.name === name)?.value;
const isHidden = ({ nodeName }: Parsed) => ["script", "style"].includes(nodeName);
const textOf = (node: Parsed): string =>
  isHidden(node) ? "" : node.value ?? (node.childNodes ?? []).map(textOf).join("");
/** With ordinary spaces. */
const plain = (text: string) => text.replaceAll("\u00a0", " ");
const pageText = (status: Status) => plain(textOf(parsed(status)));

const statuses = PROGRAMS.flatMap((program) =>
  [busyStatus, idleStatus, hostileStatus].map((make) => ({
    name: `${make.name}(${program})`,
    status: make(program),
  }))
);

test("formatBytes() has three digits and the next unit at 1000", () => {
  const bytes = [0, 1, 999, 999.7, 1_000, 1_234, 12_345, 999_499, 999_500, 5e6, 1.5e12, 2e15, 5e18];
  assertEquals(
    bytes.map(formatBytes).map(plain).join(", "),
    "0 B, 1 B, 999 B, 1 kB, 1 kB, 1.23 kB, 12.3 kB, 999 kB, 1 MB, 5 MB, 1.5 TB, 2 PB, 5,000 PB",
  );
  assertEquals(plain(formatRate(1_500)), "1.5 kB/s");
});

test("formatDuration() has the two largest units", () => {
  const seconds = [-5, 0, 0.9, 59, 60, 61, 3_600, 3_605, 3_660, 86_399, 86_400, 90_061, 40_000_000];
  assertEquals(
    seconds.map((each) => plain(formatDuration(each * 1_000))).join(", "),
    "0 s, 0 s, 0 s, 59 s, 1 min, 1 min 1 s, 1 h, 1 h, 1 h 1 min, 23 h 59 min, 1 d, 1 d 1 h, 462 d 23 h",
  );
});

test("formatLatency(), formatNumber() and formatPercent() are short", () => {
  assertEquals(
    [0.1234, 12.34, 999.4, 999.5, 61_000].map(formatLatency).map(plain).join(", "),
    "0.123 ms, 12.3 ms, 999 ms, 1 s, 61 s",
  );
  assertEquals([0, 12, 1_234_567].map(formatNumber), ["0", "12", "1,234,567"]);
  const percents = [[0, 0], [0, 10], [1, 3], [1, 1_000_000], [7, 7]] as const;
  assertEquals(
    percents.map(([part, whole]) => plain(formatPercent(part, whole))).join(", "),
    "–, 0 %, 33.33 %, < 0.01 %, 100 %",
  );
});

test("formatTime() is UTC to the second, and leaves alone what is no time", () => {
  assertEquals(plain(formatTime("2026-01-31T13:02:03.456+01:00")), "2026-01-31 12:02:03 UTC");
  assertEquals(formatTime("soon"), "soon");
});

test("formatLeft() counts days, and hours when there are few", () => {
  const days = [400.5, 2.5, 1.5, 0.1, -0.1, -3.2];
  assertEquals(
    days.map((each) => plain(formatLeft(each * 86_400_000))).join(", "),
    "400 days left, 2 days left, 1 d 12 h left, 2 h 24 min left, " +
      "expired 2 h 24 min ago, expired 3 days ago",
  );
});

test("visible() shows what turns text around, or shows nothing, as code points", () => {
  assertEquals(
    visible("a\u202Eb\u0000\n\u2028\u{E0041}\uD800c"),
    "a[U+202E]b[U+0000][U+000A][U+2028][U+E0041][U+D800]c",
  );
  assertEquals(visible("سلام 你好 🙂"), "سلام 你好 🙂");
});

test("shorten() leaves out the middle of what is longer than 64 characters", () => {
  assertEquals(shorten("🙂".repeat(64)), "🙂".repeat(64));
  assertEquals(shorten("a".repeat(50) + "b".repeat(50)), `${"a".repeat(42)}…${"b".repeat(21)}`);
  assertEquals(shorten("abcdefghi", 6), "abc…hi");
});

test("element() makes one text of neighbours and leaves out what is not there", () => {
  assertEquals(element("p", { id: "x", class: undefined }, "a", ["b", [undefined, ""]], "c"), {
    tag: "p",
    attributes: { id: "x" },
    children: ["abc"],
  });
});

test("toHtml() escapes texts and attribute values", () => {
  assertEquals(
    toHtml(element("p", { title: `"'<>&` }, `"'<>&`)),
    `<p title="&#34;&#39;&#60;&#62;&#38;">&#34;&#39;&#60;&#62;&#38;</p>`,
  );
});

test("linePath() ends at the right, and has gaps and dots", () => {
  assertEquals(linePath([0, 5, null, 10, null, 10], 100, 10), "M500 100h0L600 50M800 0h0M1000 0h0");
  assertEquals(linePath([], 100, 10), "");
});

test("roundUp() gives numbers with round quarters", () => {
  const numbers = [1, 1.1, 4, 4.1, 999, 1_000, 1_001, 0.03];
  assertEquals(numbers.map(roundUp), [1, 2, 4, 6, 1_000, 1_000, 2_000, 0.04]);
});

test("windowOf() has room for the time in round parts", () => {
  const minutes = [0, 1, 4, 10, 11, 60, 61].map((each) => windowOf(each * 60_000));
  assertEquals(minutes.map(({ windowMs }) => windowMs / 60_000), [1, 1, 5, 10, 15, 60, 120]);
  assertEquals(minutes.map(({ parts }) => parts), [4, 4, 5, 5, 5, 4, 4]);
});

for (const { name, status } of statuses) {
  test(`statusPage() of ${name} is HTML without errors, and accessible in its outline`, () => {
    const document = parsed(status);
    for (const single of ["title", "h1", "main", "header"]) {
      assertEquals(named(document, single).length, 1, single);
    }
    assertEquals(attribute(named(document, "html")[0]!, "lang"), "en");
    const ids = all(document).flatMap((node) => attribute(node, "id") ?? []);
    assertEquals(ids.length, new Set(ids).size, "ids are unique");
    for (const node of all(document)) {
      const label = attribute(node, "aria-labelledby");
      assert(label === undefined || ids.includes(label), label);
    }
    for (const table of named(document, "table")) {
      assertEquals(named(table, "caption").length, 1);
      const scopes = named(table, "th").map((cell) => attribute(cell, "scope"));
      assert(scopes.every((scope) => scope === "col" || scope === "row"));
    }
    for (const svg of named(document, "svg")) {
      assert(attribute(svg, "aria-label") ?? attribute(svg, "aria-hidden"), "has an alternative");
    }
  });

  test(`statusPage() of ${name} has no code but its own, and nothing from elsewhere`, () => {
    const document = parsed(status);
    const code = named(document, "script", "style");
    assertEquals(code.map((node) => attribute(node, "nonce")), [NONCE, NONCE]);
    assertEquals(named(document, "img", "iframe", "object", "embed", "form", "a", "base"), []);
    for (const node of all(document)) {
      for (const { name, value } of node.attrs ?? []) {
        assert(!name.startsWith("on") && name !== "style" && name !== "src", name);
        if (name === "href") assertMatch(value, /^data:image\/svg\+xml,/);
      }
    }
  });
}

test("the script is JavaScript", () => {
  assertEquals(typeof new Function(script), "function");
});

test("statusPage() shows hostile names as they are, shortened, with their signs made visible", () => {
  const text = pageText(hostileStatus());
  for (const name of HOSTILE_NAMES) assertStringIncludes(text, plain(shorten(visible(name))));
  // deno-lint-ignore no-control-regex
  assert(!/[\u0000-\u0009\u000b-\u001f\u202a-\u202e\ud800-\udfff]/.test(text.replaceAll("🙂", "")));
});

test("statusPage() escapes a version that would end the script, and a nonce", () => {
  const version = "</script><script>alert(1)</script>";
  const page = statusPage({ ...busyStatus(), version }, `"><i>`);
  assertEquals(page.split("</script>").length, 2);
  assert(!page.includes("<i>"));
});

test("statusPage() says what it is, since when, and whether it is ready", () => {
  const text = pageText(busyStatus());
  assertStringIncludes(text, "proxy-server edge-1");
  assertStringIncludes(text, "Version 0.1.0 · up 3 d 4 h, since 2026-01-28 07:54:48 UTC");
  assertStringIncludes(text, "✓ Ready");
  const idle = pageText(idleStatus());
  assertStringIncludes(idle, "✗ Not ready");
  assertStringIncludes(idle, "✗ agents: none is connected");
  assertEquals(titleOf(idleStatus()), "✗ not ready: proxy-server");
  assertEquals(titleOf(busyStatus("proxy-agent")), "proxy-agent edge-1");
});

test("statusPage() has the targets of tunnels only where they are known", () => {
  for (const program of PROGRAMS) {
    const heads = named(parsed(busyStatus(program)), "th").map(textOf);
    assertEquals(heads.includes("Target"), program !== "proxy-server", program);
    assertEquals(heads.includes("Agent"), program === "proxy-server", program);
    assertEquals(heads.includes("Server"), program !== "proxy-server", program);
  }
});

test("statusPage() says in words what is not there, and what to do", () => {
  const server = pageText(idleStatus("proxy-server"));
  assertStringIncludes(server, "No agent is connected. Start a proxy-agent");
  assertStringIncludes(server, "No tunnel is in progress. Each client connection opens one.");
  assertStringIncludes(server, "No certificate is in use.");
  assertStringIncludes(server, "No tunnel was connected in this period.");
  for (const program of ["proxy-agent", "proxy-passthrough"] as const) {
    const text = pageText(idleStatus(program));
    assertStringIncludes(text, "No server is connected. Check that --server is");
    assertStringIncludes(text, "No tunnel is in progress. Each client that the server");
  }
});

test("statusPage() says how many tunnels it does not list", () => {
  assertStringIncludes(
    pageText(hostileStatus()),
    "Showing the newest 200; 12,145 more are in progress.",
  );
  assert(!pageText(busyStatus()).includes("in progress."));
});

test("statusPage() has figures of now, and says of which time they are if not", () => {
  const status = busyStatus();
  const text = pageText(status);
  assertStringIncludes(text, "Agents connected31 draining, 1 silent");
  const { history } = status;
  const connectP50Ms = history.connectP50Ms.toSpliced(-3, 3, null, null, null);
  const older = { ...history, connectP50Ms };
  assertMatch(pageText({ ...status, history: older }), /Connect latency, p50\S+ ms15 s ago/);
  assertStringIncludes(pageText(idleStatus()), "Connect latency, p99–no tunnel yet");
});

test("statusPage() marks certificates by words, not by colour alone", () => {
  const text = pageText(busyStatus());
  const words = ["✓ 364 days left", "! 23 days left, expires soon"];
  for (const each of [...words, "‼ 1 d 1 h left, urgent", "✗ expired 2 days ago"]) {
    assertStringIncludes(text, each);
  }
});

test("statusPageHeaders() allow nothing but what has the nonce, and requests of its own", () => {
  assertEquals(statusPageHeaders(NONCE), {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'; script-src 'nonce-bm9uY2U'; " +
      "style-src 'nonce-bm9uY2U'; img-src data:; connect-src 'self'; frame-ancestors 'none'; " +
      "base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
  });
});

test("statusPage() names Deno's QUIC, and shows a dash for what it does not tell", () => {
  const status = busyStatus("proxy-agent");
  const { name, address, state, transport, alpn, since } = status.peers[0]!;
  const peer = { name, address, state, transport, alpn, since, library: "deno" as const };
  const text = pageText({ ...status, peers: [{ ...peer, streams: 3 }] });
  assertStringIncludes(text, "qrht/1 on Deno's QUIC");
  assertStringIncludes(text, "3––––qrht/1");
  assertEquals(text.includes("undefined") || text.includes("NaN"), false);
});

test("statusPage() shows what carries each connection, and when an agent tries UDP again", () => {
  assertStringIncludes(pageText(busyStatus("proxy-agent")), "TCP UDP tried in 1 min 15 s");
  const ofServer = pageText(busyStatus("proxy-server"));
  assertStringIncludes(ofServer, "TCP");
  assertEquals(ofServer.includes("UDP tried"), false);
});
