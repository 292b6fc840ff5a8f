// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { envNameOf } from "./environment.ts";
import type { Flag, FlagTable } from "./flag.ts";
import { informingFlags } from "./informing_flags.ts";

/** Note of a flag without an environment variable. */
export const COMMAND_LINE_ONLY = "command line only";

const HELP_COLUMNS = 100;
/** A longer note may be wrapped. */
const MAX_WHOLE_NOTE_COLUMNS = 50;

/** A longer label has its text below it, to keep the column narrow. */
const MAX_LABEL_COLUMNS = 30;

/** How a flag is written, as help has it. */
export function flagLabel({ name, valueName }: Flag<unknown>): string {
  return `--${name} ${valueName}`.trimEnd();
}

/** The note of a flag that has to be given, or has to unless another one is. */
export function requirementOf({ required, requiredUnless }: Flag<unknown>): string[] {
  if (!requiredUnless) return required ? ["required"] : [];
  return [`required without ${requiredUnless.map((name) => `--${name}`).join(" or ")}`];
}

/** The help text of a program, at most 100 columns wide, without a newline at its end. */
export function formatHelp(
  program: {
    readonly name: string;
    readonly summary: string;
    /** @default {`${name} [flags]`} */
    readonly usage?: string;
    readonly examples?: readonly { readonly does: string; readonly command: string }[];
  },
  flags: FlagTable,
): string {
  const table = Object.values(flags);
  const rows = table.map((flag): [string, string[]] => {
    const notes = [...flag.notes, ...requirementOf(flag)];
    if (flag.defaultText !== undefined) notes.push(`default: ${flag.defaultText}`);
    notes.push(flag.commandLineOnly ? COMMAND_LINE_ONLY : `env: ${envNameOf(flag.name)}`);
    const words = [...flag.help.split(" "), ...notes.flatMap(wordsOfNote)];
    return [flagLabel(flag), words];
  });
  const { help, version, completion } = informingFlags;
  rows.push(
    ["--help, -h", help.help.split(" ")],
    ["--version", version.help.split(" ")],
    [`--completion ${completion.valueName}`, completion.help.split(" ")],
  );
  const labels = rows.map(([label]) => label.length).filter((n) => n <= MAX_LABEL_COLUMNS);
  const indent = " ".repeat(Math.max(...labels) + 4);

  const notes = [
    "Flags are written --x=y, --x y, -x=y or -x y, and take precedence over environment variables.",
  ];
  if (table.some((flag) => flag.kind === "duration")) {
    notes.push("A duration is a number with a unit (ns, us, ms, s, m, h): 300ms, 2s, 1m30s.");
  }
  return [
    ...wrap(program.summary.split(" "), HELP_COLUMNS),
    "",
    `Usage: ${program.usage ?? `${program.name} [flags]`}`,
    "",
    ...(program.examples ?? []).flatMap(({ does, command }) => [
      ...wrap(["For", "example,", ...does.split(" ")], HELP_COLUMNS),
      ...continued(command, HELP_COLUMNS),
      "",
    ]),
    "Flags:",
    ...rows.flatMap(([label, words]) => {
      const head = `  ${label}  `.padEnd(indent.length);
      const lines = wrap(words, HELP_COLUMNS - indent.length).map((line) => indent + line);
      if (head.length > indent.length) return [head.trimEnd(), ...lines];
      return [head + lines.join("\n").slice(indent.length)];
    }),
    "",
    ...notes.flatMap((note) => wrap(note.split(" "), HELP_COLUMNS)),
  ].join("\n");
}

/** Wraps a command with line continuations for a shell. */
export function continued(command: string, columns: number): string[] {
  return wrap(command.split(" "), columns - "  ".length - " \\".length)
    .map((line, i, { length }) =>
      `${i === 0 ? "  " : "    "}${line}${i < length - 1 ? " \\" : ""}`
    );
}

/** A short note is not wrapped. */
function wordsOfNote(note: string): string[] {
  return note.length <= MAX_WHOLE_NOTE_COLUMNS ? [`[${note}]`] : `[${note}]`.split(" ");
}

/** Fills lines with words; a word longer than a line gets one of its own. */
function wrap(words: readonly string[], columns: number): string[] {
  const lines: string[] = [];
  for (const word of words) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= columns) {
      lines[lines.length - 1] = `${last} ${word}`;
    } else {
      lines.push(word);
    }
  }
  return lines;
}
