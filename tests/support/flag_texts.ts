// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Flag } from "../../lib/cli/flag.ts";

/** What the help and the manual page say of a flag beside its meaning. */
export function textsOf(flag: Flag<unknown>): string[] {
  return [
    ...flag.notes,
    ...requirementOf(flag),
    ...(flag.defaultText === undefined ? [] : [`default: ${flag.defaultText}`]),
  ];
}

function requirementOf({ required, requiredUnless }: Flag<unknown>): string[] {
  if (!requiredUnless) return required ? ["required"] : [];
  return [`required without ${requiredUnless.map((name) => `--${name}`).join(" or ")}`];
}
