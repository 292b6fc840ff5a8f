// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** A line of a program's log, taken apart as far as it is asked for. */
export class LogLine {
  private constructor(
    readonly level: string,
    readonly message: string,
    readonly text: string,
  ) {}

  /** Undefined when it is none of the log: what Deno says when a program fails, for one. */
  static parse(text: string): LogLine | undefined {
    const match = /^\S+Z (TRC|DBG|INF|WRN|ERR|FTL) \S+ "((?:[^"\\]|\\.)*)"/.exec(text);
    return match ? new LogLine(match[1]!, match[2]!, text) : undefined;
  }

  /** When it was written, by `Date.now()`. */
  get time(): number {
    return Date.parse(this.text.slice(0, this.text.indexOf(" ")));
  }

  /** A field without blanks. */
  field(name: string): string | undefined {
    const start = this.text.indexOf(` ${name}=`);
    if (start < 0) return undefined;
    const end = this.text.indexOf(" ", start + 1);
    return this.text.slice(start + name.length + 2, end < 0 ? undefined : end);
  }
}
