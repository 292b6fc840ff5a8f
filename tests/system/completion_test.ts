// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Completion scripts in the shells that they are for. */
import { assertEquals, assertObjectMatch } from "@std/assert";
import { formatCompletion } from "../../lib/cli/completion.ts";
import type { Shell } from "../../lib/cli/informing_flags.ts";
import { programInfos } from "../../lib/cli/programs.ts";
import { runCommand } from "../support/system_command.ts";
import { programArguments } from "../support/processes.ts";
import { temporaryFolder } from "../support/temporary_folder.ts";

/** What a shell of the test's own runs: completes these words, the last of which is under way. */
const COMPLETE = `
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$((\${#COMP_WORDS[@]} - 1))
_\${1//-/_}
printf '%s\\n' "\${COMPREPLY[@]}"
`;

/** The script of proxy-server for a shell, in a file of a folder that goes with the disposal. */
async function scriptFor(shell: Shell) {
  const { name, flags } = programInfos.find(({ name }) => name === "proxy-server")!;
  const folder = await temporaryFolder();
  const script = `${folder.path}/script`;
  await Deno.writeTextFile(script, `${formatCompletion(shell, name, flags)}\n`);
  return Object.assign(folder, { script });
}

async function completedByBash(...words: string[]): Promise<string[]> {
  await using folder = await scriptFor("bash");
  const options = ["--norc", "-uo", "pipefail", "-c", COMPLETE, "bash"];
  const args = [...options, folder.script, "proxy-server", ...words];
  const { code, stdout, stderr } = await runCommand("bash", args);
  assertEquals([code, stderr], [0, ""], words.join(" "));
  return stdout.split("\n").filter((line) => line !== "");
}

Deno.test("bash completes flags, and choices behind a space or an equals sign", async () => {
  const flags = await completedByBash("--max-");
  assertEquals(flags, ["--max-attempts", "--max-connections", "--max-agents", "--max-pending"]);
  assertEquals(await completedByBash("--cert-file=x.pem", "--vers"), ["--version"]);
  const balances = ["round-robin", "least-streams", "random-two"];
  assertEquals(await completedByBash("--balance", ""), balances);
  assertEquals(await completedByBash("-balance", "ra"), ["random-two"]);
  // As bash splits --balance= and --balance=le, for the equals sign ends a word.
  assertEquals(await completedByBash("--balance", "="), balances);
  assertEquals(await completedByBash("--balance", "=", "le"), ["least-streams"]);
  assertEquals(await completedByBash("--completion", ""), ["bash", "zsh", "fish"]);
  assertEquals(await completedByBash("--listen-tcp", ""), [], "nothing is known of it");
});

Deno.test("bash completes each item of a list of choices", async () => {
  assertEquals(await completedByBash("--retry-on", "g"), ["gone"]);
  assertEquals(await completedByBash("--retry-on", "=", "draining,un"), [
    "draining,unreachable",
    "draining,unknown-name",
  ]);
});

Deno.test("bash completes files for flags that take a path, with spaces in their names as well", async () => {
  await using temporary = await temporaryFolder();
  const dir = temporary.path;
  for (const name of ["server.pem", "server key.pem", "other"]) {
    await Deno.writeTextFile(`${dir}/${name}`, "");
  }
  for (const words of [["--cert-file"], ["--cert-key", "="]]) {
    const found = await completedByBash(...words, `${dir}/ser`);
    assertEquals(found.sort(), [`${dir}/server key.pem`, `${dir}/server.pem`]);
  }
});

Deno.test("--completion bash is what `source <(…)` takes, and registers the program", async () => {
  const program = [Deno.execPath(), ...programArguments("server", {}), "--completion", "bash"];
  const script = 'source <("$@"); complete -p proxy-server; declare -F _proxy_server';
  const args = ["--norc", "-c", script, "bash", ...program];
  const { stdout, stderr } = await runCommand("bash", args);
  assertEquals([stdout, stderr], [
    "complete -F _proxy_server proxy-server\n_proxy_server\n",
    "",
  ]);
});

Deno.test("zsh takes the script for its own, and completes flags and choices", async () => {
  await using folder = await scriptFor("zsh");
  const checked = await runCommand("zsh", ["-n", folder.script]);
  assertObjectMatch(checked, { code: 0, stdout: "", stderr: "" });
  // A terminal of its own, in which a key is pressed; the words that are offered come out of it.
  const complete = `
    zmodload zsh/zpty
    zpty shell zsh -f -i
    # No prompt and no colours; one candidate a line.
    zpty -w shell "PS1= TERM=dumb LISTMAX=0; autoload -U compinit; compinit -D -u; source $1; stty cols 500; echo re''ady"
    zpty -r shell line '*ready*'
    zpty -w -n shell "$2"$'\\t'
    zpty -r -m shell line "*$3*" && print -r found
    zpty -d shell
  `;
  const cases: [typed: string, offered: string][] = [
    ["proxy-server --accept", "--accept-proxy-protocol="],
    ["proxy-server --balance=lea", "--balance=least-streams"],
    ["proxy-server --retry-on=draining,inter", "draining,internal-error"],
  ];
  for (const [typed, offered] of cases) {
    const args = ["-f", "-c", complete, "zsh", folder.script, typed, offered];
    assertEquals((await runCommand("zsh", args)).stdout, "found\n", typed);
  }
});

Deno.test("fish takes the script for its own, and completes flags, choices and paths", async () => {
  await using folder = await scriptFor("fish");
  const { script } = folder;
  const completed = async (line: string) => {
    const args = ["--no-config", "-c", `source ${script}; complete -C '${line}'`];
    const options = { env: { HOME: folder.path } };
    const { code, stdout, stderr } = await runCommand("fish", args, options);
    assertEquals([code, stderr], [0, ""]);
    return stdout.trim().split("\n").map((line) => line.split("\t")[0]);
  };
  assertEquals(await completed("proxy-server --accept"), ["--accept-proxy-protocol"]);
  assertEquals(await completed("proxy-server --balance r"), ["random-two", "round-robin"]);
  assertEquals(await completed(`proxy-server --cert-file ${script.slice(0, -1)}`), [script]);
});
