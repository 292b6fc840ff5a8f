// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** `deno task man`: writes a manual page for each program, `dist/man/proxy-server.1` and so on. */
import { envNameOf } from "../lib/cli/environment.ts";
import type { Flag } from "../lib/cli/flag.ts";
import { informingFlags } from "../lib/cli/informing_flags.ts";
import { COMMAND_LINE_ONLY, requirementOf } from "../lib/cli/help.ts";
import { type ProgramInfo, programInfos } from "../lib/cli/programs.ts";
import { version } from "../lib/version.ts";

const FOLDER = "dist/man";

const DESCRIPTION = [
  "Each flag has an environment variable; the command line takes precedence.",
  "Flags are written --x=y, --x y, -x=y or -x y.",
  "A duration is a number with a unit (ns, us, ms, s, m, h): 300ms, 2s, 1m30s.",
];

const SIGNALS: readonly Term[] = [
  [
    "SIGTERM, SIGINT",
    "Accepts no more tunnels, lets open ones continue for up to --drain-timeout, and exits. A second signal exits at once.",
  ],
  [
    "SIGHUP",
    "Reloads the certificates and --config; acts like SIGTERM if its terminal has been closed.",
  ],
  ["SIGUSR2", "Logs its peers and tunnels."],
];

const EXIT_STATUS: readonly Term[] = [
  ["0", "Stopped by a signal."],
  ["1", "Failed; the last line on stderr has the cause."],
  ["2", "Could not start as configured; one line on stderr has the cause."],
  ["128+n", "Ended by a second signal, with number n."],
];

type Term = readonly [term: string, text: string];

/** The manual page of a program, in the man macros of roff. */
export function formatMan({ name, summary, examples = [], flags }: ProgramInfo): string {
  const others = programInfos.map((each) => each.name).filter((other) => other !== name);
  const table = [...Object.values(flags), ...Object.values(informingFlags)];
  return [
    `.TH ${
      name.toUpperCase().replaceAll("-", "\\-")
    } 1 "" "quic\\-reverse\\-http\\-tunnel ${version}"`,
    ".SH NAME",
    `${escaped(name)} \\- ${escaped(summary.replace(/\.$/, ""))}`,
    ".SH SYNOPSIS",
    `.B ${escaped(name)}`,
    ".RI [ flags ]",
    ".SH DESCRIPTION",
    escaped(summary),
    ...DESCRIPTION.map(escaped),
    ".SH OPTIONS",
    ...table.flatMap(option),
    ".SH SIGNALS",
    ...SIGNALS.flatMap(term),
    ".SH EXIT STATUS",
    ...EXIT_STATUS.flatMap(term),
    ".SH EXAMPLES",
    ...examples.flatMap(({ does, command }) => [
      escaped(does.charAt(0).toUpperCase() + does.slice(1)),
      ".PP",
      ".RS 4",
      ".nf",
      ...command.split(/ (?=--)/).map((word, i, { length }) =>
        escaped((i === 0 ? "" : "  ") + word) + (i < length - 1 ? " \\e" : "")
      ),
      ".fi",
      ".RE",
    ]),
    ".SH SEE ALSO",
    ...others.map((other, i) => `.BR ${escaped(other)} (1)${i < others.length - 1 ? "," : ""}`),
    "",
  ].join("\n");
}

function option(flag: Flag<unknown>): string[] {
  const { name, valueName, help, notes, defaultText, commandLineOnly } = flag;
  const isInforming = Object.values<Flag<unknown>>(informingFlags).includes(flag);
  const head = valueName === ""
    ? `.B \\-\\-${escaped(name)}`
    : `.BI \\-\\-${escaped(name)}= ${escaped(valueName)}`;
  const more = [
    ...notes,
    ...requirementOf(flag),
    ...(isInforming || defaultText === undefined ? [] : [`default: ${defaultText}`]),
    ...(isInforming
      ? []
      : [commandLineOnly ? COMMAND_LINE_ONLY : `environment: ${envNameOf(name)}`]),
  ];
  const sentence = `${help.charAt(0).toUpperCase()}${help.slice(1)}.`;
  return [".TP", head, escaped(sentence), ...more.flatMap((text) => [".br", escaped(text)])];
}

function term([word, text]: Term): string[] {
  return [".TP", `.B ${escaped(word)}`, escaped(text)];
}

/** Text that roff takes for nothing else: a minus is none of a hyphen's, and no line begins with a request. */
function escaped(text: string): string {
  return text.replaceAll("\\", "\\e").replaceAll("-", "\\-").replace(/^[.']/, "\\&$&");
}

if (import.meta.main) {
  await Deno.mkdir(FOLDER, { recursive: true });
  for (const program of programInfos) {
    await Deno.writeTextFile(`${FOLDER}/${program.name}.1`, formatMan(program));
  }
}
