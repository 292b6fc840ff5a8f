// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** CPU time that a run took of each program, in seconds for a GB (1e9 bytes). */
export interface CpuPerGb {
  readonly server: number;
  /** Absent where there is one program only. */
  readonly agent?: number;
}

/** Something that was measured, in some runs. */
export interface Figure {
  /** What the bars call it; its first part is the row. */
  readonly id: string;
  readonly name: string;
  readonly unit: string;
  readonly values: readonly number[];
  readonly cpu: readonly CpuPerGb[];
}

/** Everything that was measured. */
export class Figures {
  readonly #figures = new Map<string, Figure & { values: number[]; cpu: CpuPerGb[] }>();

  /** Adds a run of a figure. */
  add(
    { id, name, unit }: Pick<Figure, "id" | "name" | "unit">,
    value: number,
    cpu?: CpuPerGb,
  ): void {
    const figure = this.#figures.get(id) ?? { id, name, unit, values: [], cpu: [] };
    this.#figures.set(id, figure);
    figure.values.push(value);
    if (cpu) figure.cpu.push(cpu);
  }

  get(id: string): Figure | undefined {
    return this.#figures.get(id);
  }

  /** In the order in which they came; those of one row if it is named. */
  list(row?: string): Figure[] {
    const all = [...this.#figures.values()];
    return row === undefined ? all : all.filter(({ id }) => id.startsWith(`${row}/`));
  }
}
