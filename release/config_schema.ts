// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * `deno task schemas`: writes for each program a JSON schema of the file of `--config`,
 * `deploy/schemas/proxy-server.json` and so on, by which editors complete and check it.
 */
import { isConfigurable, takesList } from "../lib/cli/config_file.ts";
import type { Flag } from "../lib/cli/flag.ts";
import { type ProgramInfo, programInfos } from "../lib/cli/programs.ts";

const FOLDER = "deploy/schemas";

/** The schema of the file of a program. It accepts whatever the program does, and refuses most else. */
export function configSchema({ name, flags }: ProgramInfo): Record<string, unknown> {
  const properties = Object.values(flags).filter(isConfigurable)
    .map((flag) => [flag.name, propertyOf(flag)]);
  return {
    $schema: "http://json-schema.org/draft-07/schema#",
    title: `--config of ${name}`,
    type: ["object", "null"],
    additionalProperties: false,
    properties: Object.fromEntries(properties),
  };
}

/** How {@linkcode configSchema} is written to its file. */
export function formatSchema(program: ProgramInfo): string {
  return `${JSON.stringify(configSchema(program), undefined, 2)}\n`;
}

function propertyOf(flag: Flag<unknown>): Record<string, unknown> {
  const { help, notes, defaultText } = flag;
  const fallback = defaultText === undefined ? [] : [`default: ${defaultText}`];
  const description = [help, ...[...notes, ...fallback].map((note) => `[${note}]`)].join(" ");
  const value = valueOf(flag);
  if (!takesList(flag)) return { description, ...value };
  return { description, anyOf: [value, { type: "array", minItems: 1, items: value }] };
}

/** Editors take `0660`, `8443` and `true` for other types than text. */
function valueOf({ kind, choices }: Flag<unknown>): Record<string, unknown> {
  if (kind === "choice") return { type: "string", enum: choices };
  if (kind === "integer") return { type: ["integer", "string"], pattern: "^[-+]?[0-9]+$" };
  if (kind === "boolean") return { type: ["boolean", "string"] };
  return { type: ["string", "number", "boolean"] };
}

if (import.meta.main) {
  await Deno.mkdir(FOLDER, { recursive: true });
  for (const program of programInfos) {
    await Deno.writeTextFile(`${FOLDER}/${program.name}.json`, formatSchema(program));
  }
}
