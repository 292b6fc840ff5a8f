// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertMatch } from "@std/assert";
import { type Occupancy, rejectionOf } from "../../lib/server/admission.ts";

Deno.test({
  name:
    "rejectionOf() sends agents away that have no name, come to a server that stops, or are too many",
  permissions: "none",
  fn() {
    const nobody = {
      maxAgents: 3,
      active: 0,
      isOfUse: true,
      connected: 0,
      isStopping: false,
    };
    const full = "3 agents are already connected";
    const cases: [occupancy: Partial<Occupancy>, reason: string | undefined][] = [
      [{ active: 2, connected: 5 }, undefined],
      [{ active: 3 }, full],
      // Those that drain may be replaced, but not without end.
      [{ active: 0, connected: 6 }, full],
      [{ isStopping: true }, "the server is draining"],
    ];
    for (const [occupancy, reason] of cases) {
      const now = { ...nobody, ...occupancy };
      const rejection = rejectionOf({ isAllowed: true }, now);
      const refused = reason ? { result: "refused", code: 103, reason } as const : undefined;
      assertEquals(rejection, refused);
      const { result, code } = rejectionOf({ isAllowed: false }, now)!;
      assertEquals([result, code], ["not-admitted", 102]);
    }
    const { result, code, reason } = rejectionOf({ isAllowed: true }, {
      ...nobody,
      isOfUse: false,
    })!;
    assertEquals([result, code], ["not-admitted", 102]);
    assertMatch(reason, /no name in the certificate is of a --route or a --listen-tcp/);
  },
});
