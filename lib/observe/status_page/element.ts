// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What the page is made of. */

export interface Element {
  readonly tag: string;
  /** `data-key` tells an element from its siblings, for the script. */
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: readonly Content[];
}

export type Content = Element | string;

/** Content, or nothing, or several of them. */
export type Contents = Content | undefined | readonly Contents[];

/** An attribute that is undefined is left out. */
export function element(
  tag: string,
  attributes: Readonly<Record<string, string | undefined>> = {},
  ...contents: readonly Contents[]
): Element {
  const children: Content[] = [];
  for (const content of (contents as unknown[]).flat(Infinity) as (Content | undefined)[]) {
    if (content === undefined || content === "") continue;
    // A parser of HTML makes one text of two that are side by side.
    if (typeof content === "string" && typeof children.at(-1) === "string") {
      children.push(children.pop() + content);
    } else {
      children.push(content);
    }
  }
  const given = Object.entries(attributes).filter(([, value]) => value !== undefined);
  return { tag, attributes: Object.fromEntries(given) as Record<string, string>, children };
}
