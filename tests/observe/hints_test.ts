// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertMatch } from "@std/assert";
import { hintForAgent, hintForServer } from "../../lib/observe/hints.ts";
import type { CloseInfo } from "../../lib/quic/mod.ts";
import { pureTest as test } from "../support/pure_test.ts";

const alert = (by: "local" | "peer", number: number): CloseInfo => ({
  by,
  application: false,
  code: 0x100 + number,
  reason: "",
});
const code = (number: number): CloseInfo => ({
  by: "peer",
  application: true,
  code: number,
  reason: "",
});
const fault = (kind: "untrusted" | "expired" | "unreadable") => ({ kind, reason: "" });

test("hintForAgent() says what to look at when no answer came at all", () => {
  const late: CloseInfo = { by: "timeout", application: false, code: 0, reason: "" };
  assertEquals(hintForAgent({ ...late, isUnanswered: true })?.includes("UDP"), true);
  assertEquals(hintForAgent(late)?.includes("UDP"), false);
});

test("hintForAgent() does not blame UDP where a carrier takes its place", () => {
  const late = { by: "timeout", application: false, code: 0, reason: "", isCarried: true } as const;
  const hints = [hintForAgent({ ...late, isUnanswered: true }), hintForAgent(late)];
  assertEquals(hints.map((hint) => /UDP|packets/.test(hint!)), [false, false]);
  assertMatch(hints[0]!, /--listen-fallback .* datagrams/);
});

test("hintForAgent() goes by the server's alert or code, or by what is wrong with its certificate", () => {
  assertEquals(
    hintForAgent(alert("peer", 48)),
    "set the server's --client-ca-file to the CA of --cert-file",
  );
  assertEquals(
    hintForAgent(alert("peer", 46)),
    "see the server's log: it says what is wrong with --cert-file",
  );
  assertEquals(
    hintForAgent(code(102)),
    "add a name in --cert-file to the server's --agent-name, or to a --route or --listen-tcp of it",
  );
  assertEquals(
    hintForAgent(alert("local", 48), [fault("unreadable"), fault("untrusted"), fault("expired")]),
    "set --ca-file to the CA of the server's certificate",
  );
  assertEquals(
    hintForAgent(alert("local", 120)),
    "configure at least one common protocol in --alpn at both ends",
  );
  assertEquals([hintForAgent(code(0)), hintForAgent(alert("peer", 80))], [undefined, undefined]);
});

test("hintForServer() goes by the agent's alert, or by what is wrong with its certificate", () => {
  assertEquals(
    hintForServer(alert("peer", 48)),
    "set the agent's --ca-file to the CA of --cert-file",
  );
  assertEquals(
    hintForServer(alert("peer", 46)),
    "see the agent's log: it says what is wrong with --cert-file",
  );
  assertEquals(
    hintForServer(alert("local", 48), [fault("untrusted")]),
    "set --client-ca-file to the CA of the agent's certificate",
  );
  assertEquals([hintForServer(code(0)), hintForServer(alert("local", 48))], [
    undefined,
    undefined,
  ]);
});
