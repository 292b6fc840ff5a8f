// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { envNameOf } from "../../lib/cli/environment.ts";
import { parseFlags } from "../../lib/cli/parse_flags.ts";
import { agentFlags, passthroughFlags, serverFlags } from "../../lib/cli/program_flags.ts";
import { UsageError } from "../../lib/errors.ts";
import { flags, messageFor, run, valuesOf } from "../support/flag_table.ts";
import { pureTest as test } from "../support/pure_test.ts";

test("parseFlags() names the environment variable that holds a bad value", () => {
  const env = { QRHT_SIZE: "big" };
  const message = 'invalid value "big" for environment variable QRHT_SIZE: not an integer';
  assertEquals(messageFor([], env), message);
  assertEquals(run(["--size=1"], env).size, 1);
  assertEquals(envNameOf("listen-tcp"), "QRHT_LISTEN_TCP");
});

test("parseFlags() refuses an unknown variable of the project, with the nearest name", () => {
  const cases: [variable: string, hint: string][] = [
    ["QRHT_SIZ", "did you mean QRHT_SIZE?"],
    ["QRHT_LISTENTCP", "did you mean QRHT_LISTEN_TCP?"],
    ["QRHT_size", "did you mean QRHT_SIZE?"],
    ["QRHT_QQQQQQQQ", "--help lists all variables"],
    ["QRHT_", "--help lists all variables"],
  ];
  for (const [name, hint] of cases) {
    const message = `unknown environment variable ${name}; ${hint}`;
    for (const text of ["x", ""]) assertEquals(messageFor(["--size=1"], { [name]: text }), message);
  }
  const oneLine = messageFor([], { "QRHT_\n": "x" });
  assertEquals(oneLine, "unknown environment variable QRHT_\\n; --help lists all variables");
});

test("parseFlags() takes variables of the other programs, and those that Kubernetes sets", () => {
  const get = () => undefined;
  const names = ["QRHT_ALLOW", "QRHT_UPSTREAM", "QRHT_CHECK", "QRHT_RETRY_ON"];
  const environment = { get, names, othersFlags: [serverFlags, passthroughFlags, agentFlags] };
  assertEquals(parseFlags(flags, [], environment).kind, "run");
  assertThrows(
    () => parseFlags(flags, [], { get, names }),
    UsageError,
    "unknown environment variable",
  );
  // One environment for all: a misspelt variable may be another program's.
  assertThrows(
    () => parseFlags(flags, [], { ...environment, names: ["QRHT_AGENT_NAMES"] }),
    UsageError,
    "did you mean QRHT_AGENT_NAME?",
  );
  // The Services "qrht" and "qrht-server" of a namespace.
  const ofService = (name: string) => [
    `${name}_SERVICE_HOST`,
    `${name}_SERVICE_PORT`,
    `${name}_SERVICE_PORT_HTTP`,
    `${name}_PORT`,
    `${name}_PORT_8443_TCP`,
    `${name}_PORT_8443_TCP_ADDR`,
  ];
  const services = [...ofService("QRHT"), ...ofService("QRHT_SERVER")];
  assertEquals(parseFlags(flags, [], { get, names: services }).kind, "run");
  const alone = () => parseFlags(flags, [], { get, names: ["QRHT_SERVER_PORT"] });
  assertThrows(alone, UsageError, "unknown environment variable QRHT_SERVER_PORT");
});

test("parseFlags() refuses an empty variable of a flag that restricts something", () => {
  const message = (name: string) =>
    `environment variable ${name} is empty: give it a value, or unset it`;
  const files = { QRHT_CERT_FILE: "a", QRHT_CERT_KEY: "a", QRHT_CA_FILE: "a" };
  for (const name of ["QRHT_ALLOW", "QRHT_DENY"]) {
    const env = { ...files, [name]: "" };
    assertEquals(messageFor([], env, agentFlags), message(name));
    assertEquals(
      messageFor(["--allow=", "--deny=*"], env, agentFlags).includes("flag --allow"),
      true,
    );
    valuesOf(agentFlags, ["--allow=*", "--deny=10.0.0.0/8"], env);
    assertStringIncludes(messageFor([], { ...env, [name]: " " }, agentFlags), name);
  }
  const server = { QRHT_CERT_FILE: "a", QRHT_CERT_KEY: "a", QRHT_CLIENT_CA_FILE: "a" };
  for (const name of ["QRHT_AGENT_NAME", "QRHT_LISTEN_TCP", "QRHT_UDS_NAME", "QRHT_UDS_MODE"]) {
    assertEquals(messageFor([], { ...server, [name]: "" }, serverFlags), message(name));
  }
});

test("parseFlags() reads no variable for --check, which must not keep a program from its work", () => {
  const files = ["--cert-file=c", "--cert-key=k"];
  const env = { QRHT_CHECK: "true" };
  assertEquals(valuesOf(serverFlags, [...files, "--client-ca-file=a"], env).check, false);
  assertEquals(valuesOf(agentFlags, [...files, "--ca-file=a"], env).check, undefined);
});
