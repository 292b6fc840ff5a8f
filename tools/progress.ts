// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0
// deno-lint-ignore-file no-console -- what commands for the terminal write

import { MultiBar, Presets } from "cli-progress";

/** How far a command is, in the last line of a terminal; nothing is shown elsewhere. The disposal removes it. */
export interface Progress extends Disposable {
  /**
   * Shows how much is done, and from its pace since the first call the time that is left.
   *
   * @param done of the total
   * @param doing what is being done, in a few words
   */
  show(done: number, doing: string): void;
  /** Writes a line, or several, to stdout: above the progress on a terminal. */
  write(line: string): void;
}

/** @param total what there is to do, in any unit */
export function startProgress(total: number): Progress {
  if (!Deno.stderr.isTerminal()) {
    return { show() {}, write: (line) => console.log(line), [Symbol.dispose]() {} };
  }
  const bars = new MultiBar({
    format: "{bar} {percentage} %, {eta_formatted} left: {doing}",
    formatTime,
    barsize: 20,
    clearOnComplete: true,
    // As they were, should the command be killed.
    linewrap: true,
    fps: 2,
  }, Presets.shades_classic);
  let bar: ReturnType<typeof bars.create> | undefined;
  return {
    show: (done, doing) => {
      bar ??= bars.create(total, done, { doing });
      bar.update(done, { doing });
    },
    write: (line) => bar && Deno.stdout.isTerminal() ? bars.log(`${line}\n`) : console.log(line),
    [Symbol.dispose]: () => {
      // Lines may still be waiting for it.
      if (bar) bars.update();
      bars.stop();
    },
  };
}

/** @param seconds something else while nothing is known of the pace */
function formatTime(seconds: number | "NULL" | "INF"): string {
  if (typeof seconds === "string") return "?";
  const minutes = Math.floor(seconds / 60);
  return minutes > 0 ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}
