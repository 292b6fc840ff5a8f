// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Completion scripts for shells, made of a table of flags. */
import type { Flag, FlagTable } from "./flag.ts";
import { informingFlags, type Shell } from "./informing_flags.ts";

/** The script that has a shell complete the flags of a program, without a newline at its end. */
export function formatCompletion(shell: Shell, program: string, flags: FlagTable): string {
  const all = [...Object.values(flags), ...Object.values(informingFlags)];
  return scripts[shell](program, all);
}

type Flags = readonly Flag<unknown>[];

const scripts: Readonly<Record<Shell, (program: string, flags: Flags) => string>> = {
  bash: bashScript,
  zsh: zshScript,
  fish: fishScript,
};

const functionOf = (program: string) => `_${program.replaceAll("-", "_")}`;

const takesPath = ({ valueName }: Flag<unknown>) => valueName === "path";

const takesValue = ({ kind }: Flag<unknown>) => kind !== "boolean";

/** For either shell that knows single quotes as POSIX has them. */
const quoted = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;

function bashScript(program: string, flags: Flags): string {
  const name = functionOf(program);
  const branch = (flags: Flags, command: string) => {
    const names = flags.flatMap(({ name }) => [`--${name}`, `-${name}`]).join("|");
    return names === "" ? [] : [`    ${names})`, `      ${command}`, "      ;;"];
  };
  const withChoices = flags.filter(({ choices }) => choices !== undefined);
  const paths = flags.filter(takesPath);
  const others = flags.filter((flag) =>
    takesValue(flag) && !withChoices.includes(flag) && !paths.includes(flag)
  );
  const names = flags.map(({ name }) => `--${name}`).join(" ");
  return [
    `# Completion of ${program} for bash: source <(${program} --completion bash)`,
    `${name}() {`,
    "  local word=${COMP_WORDS[COMP_CWORD]} flag=${COMP_WORDS[COMP_CWORD - 1]} head= IFS=$' \\t\\n'",
    "  # To bash, --x=y is three words.",
    "  if [[ $word == = ]]; then",
    "    word=",
    "  elif [[ $flag == = ]] && ((COMP_CWORD > 1)); then",
    "    flag=${COMP_WORDS[COMP_CWORD - 2]}",
    "  fi",
    "  COMPREPLY=()",
    "  case $flag in",
    ...withChoices.flatMap((flag) => {
      const list = `COMPREPLY=($(compgen -P "$head" -W "${flag.choices!.join(" ")}" -- "$word"))`;
      const split = "if [[ $word == *,* ]]; then head=${word%,*}, word=${word##*,}; fi";
      return branch([flag], flag.kind === "list" ? `${split}\n      ${list}` : list);
    }),
    ...branch(
      paths,
      "compopt -o filenames 2>/dev/null\n      IFS=$'\\n' COMPREPLY=($(compgen -f -- \"$word\"))",
    ),
    ...branch(others, ":"),
    "    *)",
    `      COMPREPLY=($(compgen -W "${names}" -- "$word"))`,
    "      ;;",
    "  esac",
    "}",
    `complete -F ${name} ${program}`,
  ].join("\n");
}

function zshScript(program: string, flags: Flags): string {
  const name = functionOf(program);
  // In a specification, these end a part.
  const escaped = (text: string) => text.replace(/[\\:[\]]/g, "\\$&");
  const specs = flags.map((flag) => {
    const { name, help, valueName, kind, choices } = flag;
    const label = `[${escaped(help)}]`;
    if (!takesValue(flag)) return `--${name}${label}`;
    const action = takesPath(flag)
      ? "_files"
      : choices && kind === "list"
      ? `_values -s , ${valueName} ${choices.join(" ")}`
      : choices
      ? `(${choices.join(" ")})`
      : " ";
    // What may be repeated is offered again.
    const again = flag.notes.some((note) => note.includes("repeated")) ? "*" : "";
    return `${again}--${name}=${label}:${escaped(valueName)}:${action}`;
  });
  return [
    `#compdef ${program}`,
    `# Completion of ${program} for zsh: source <(${program} --completion zsh)`,
    `${name}() {`,
    "  _arguments \\",
    specs.map((spec) => `    ${quoted(spec)}`).join(" \\\n"),
    "}",
    "# A file of $fpath is the body of the function itself.",
    `if [[ $\{funcstack[1]} == ${name} ]]; then`,
    `  ${name} "$@"`,
    "else",
    `  compdef ${name} ${program}`,
    "fi",
  ].join("\n");
}

function fishScript(program: string, flags: Flags): string {
  return [
    `# Completion of ${program} for fish: ${program} --completion fish | source`,
    `complete -c ${program} -f`,
    ...flags.map((flag) => {
      const words = ["complete", "-c", program, "-l", flag.name];
      if (takesPath(flag)) words.push("-r", "-F");
      else if (takesValue(flag)) words.push("-x");
      if (flag.choices) words.push("-a", quoted(flag.choices.join(" ")));
      return [...words, "-d", quoted(flag.help)].join(" ");
    }),
  ].join("\n");
}
