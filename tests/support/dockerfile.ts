// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import {
  type Copy,
  DockerfileParser,
  type Entrypoint,
  type From,
  type Instruction,
} from "dockerfile-ast";

/** A stage of the `Dockerfile`. */
export interface Stage {
  readonly name: string;
  readonly base: string;
  /** What it copies, from the stage of a name or else from the build's context. */
  readonly copies: readonly {
    readonly from?: string;
    readonly files: readonly string[];
    readonly to: string;
  }[];
  readonly entrypoint: readonly string[];
}

/** Reads the stages of a `Dockerfile`, as far as the one of this project needs it. */
export function stagesOf(dockerfile: string): readonly Stage[] {
  const instructions = DockerfileParser.parse(dockerfile).getInstructions();
  const starts = instructions.flatMap((instruction, i) =>
    instruction.getKeyword() === "FROM" ? i : []
  );
  return starts.map((start, i) => stageOf(instructions.slice(start, starts[i + 1])));
}

function stageOf([from, ...instructions]: readonly Instruction[]): Stage {
  const of = <T extends Instruction>(keyword: string) =>
    instructions.filter((instruction) => instruction.getKeyword() === keyword) as T[];
  return {
    name: (from as From).getBuildStage()!,
    base: (from as From).getImage()!,
    copies: of<Copy>("COPY").map((copy) => {
      const words = copy.getArguments().map((argument) => argument.getValue());
      const stage = copy.getFromFlag()?.getValue();
      return { ...(stage && { from: stage }), files: words.slice(0, -1), to: words.at(-1)! };
    }),
    entrypoint: of<Entrypoint>("ENTRYPOINT").flatMap((entrypoint) =>
      entrypoint.getJSONStrings().map((text) => text.getJSONValue())
    ),
  };
}
