// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import { quicLibraryOf } from "../../lib/quic/mod.ts";

Deno.test("quicLibraryOf() is the binding where there is a build of it, else Deno's", () => {
  const machines = {
    "x86_64-unknown-linux-gnu": "binding",
    "aarch64-apple-darwin": "binding",
    "x86_64-pc-windows-msvc": "binding",
    "aarch64-unknown-linux-gnu": "deno",
    "aarch64-pc-windows-msvc": "deno",
  };
  for (const [target, library] of Object.entries(machines)) {
    assertEquals<string>(quicLibraryOf("auto", target), library, target);
    for (const choice of ["binding", "deno"] as const) {
      assertEquals(quicLibraryOf(choice, target), choice);
    }
  }
});
