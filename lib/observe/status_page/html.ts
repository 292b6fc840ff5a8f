// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import type { Content } from "./element.ts";

/**
 * Serializes to HTML. Tags and attribute names are trusted; texts and attribute values are escaped.
 */
export function toHtml(content: Content): string {
  if (typeof content === "string") return escapeHtml(content);
  const { tag, attributes, children } = content;
  const names = Object.entries(attributes)
    .map(([name, value]) => ` ${name}="${escapeHtml(value)}"`).join("");
  return `<${tag}${names}>${children.map(toHtml).join("")}</${tag}>`;
}

/** For texts, and for attribute values in double quotes. */
export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
