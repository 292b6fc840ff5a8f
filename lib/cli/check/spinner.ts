// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { formatRunning, type ReportOutput } from "./report.ts";

const FRAMES = ["|", "/", "-", "\\"];
/** Steps that are faster than this are not shown. */
const FRAME_MS = 100;
/** To the first column, and nothing right of it (ECMA-48: CR, EL). */
const CLEAR_LINE = "\r\x1b[K";
/** Of a terminal that does not say how many it has. */
const COLUMNS = 80;

/**
 * A report of steps on stdout, which as a terminal also shows the step that runs.
 *
 * @param write takes each line, without its end, for stdout
 */
export function stepOutput(write: (line: string) => void): ReportOutput {
  if (!Deno.stdout.isTerminal()) return { write };
  const encoder = new TextEncoder();
  const draw = (text: string) => void Deno.stdout.write(encoder.encode(text)).catch(() => {});
  return withSpinner(write, draw, Deno.consoleSize().columns || COLUMNS);
}

/**
 * Adds to a report on a terminal, as its last line, a spinner and the step that runs.
 *
 * @param draw writes text as it is
 * @param columns of the terminal: a longer line could not be taken back
 */
export function withSpinner(
  write: (line: string) => void,
  draw: (text: string) => void,
  columns: number,
): ReportOutput {
  let timer: ReturnType<typeof setInterval> | undefined;
  return {
    write: (line) => write(CLEAR_LINE + line),
    running: (step) => {
      clearInterval(timer);
      if (step === undefined) return;
      let frames = 0;
      timer = setInterval(() => {
        const text = formatRunning(FRAMES[frames++ % FRAMES.length]!, step);
        draw(CLEAR_LINE + text.slice(0, columns - 1));
      }, FRAME_MS);
    },
  };
}
