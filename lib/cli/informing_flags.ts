// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The flags of every program with which it shows something, instead of running. */

import type { FlagTable } from "./flag.ts";
import { booleanFlag, choiceFlag } from "./flag_kinds.ts";

const help = booleanFlag("help", { help: "print this help" });
const version = booleanFlag("version", { help: "print the version" });

const shells = ["bash", "zsh", "fish"] as const;
/** A shell that completes command lines. */
export type Shell = typeof shells[number];

const completion = choiceFlag("completion", shells, {
  valueName: "shell",
  help: "print a completion script for bash, zsh or fish",
});

/**
 * The flags that every program has, beside those of its table: instead of running, it shows
 * something.
 */
export const informingFlags = { help, version, completion } as const satisfies FlagTable;
