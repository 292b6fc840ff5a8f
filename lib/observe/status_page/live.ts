// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Keeps the page in the browser up to date. Its functions run only there. */
import type { Status } from "../status.ts";
import type { Content, Element } from "./element.ts";
import { formatDuration, formatTime } from "./format.ts";
import { titleOf, view } from "./view.ts";

/** What is used of the browser's document, whose types are not among those of the programs. */
export interface PageNode {
  readonly nodeType: number;
  readonly localName?: string;
  readonly namespaceURI: string | null;
  readonly firstChild: PageNode | null;
  readonly nextSibling: PageNode | null;
  readonly childNodes: Iterable<PageNode>;
  readonly attributes: Iterable<{ readonly name: string }>;
  textContent: string | null;
  hidden: boolean;
  getAttribute(name: string): string | null;
  setAttribute(name: string, value: string): void;
  removeAttribute(name: string): void;
  insertBefore(node: PageNode, before: PageNode | null): void;
  addEventListener(type: string, listener: () => unknown): void;
  remove(): void;
}

export interface PageDocument extends PageNode {
  title: string;
  createTextNode(text: string): PageNode;
  createElementNS(namespace: string | null, tag: string): PageNode;
  getElementById(id: string): PageNode | null;
}

/** Makes the children of a node look like the contents, and changes nothing else: neither focus nor scrolling are lost. */
export function patch(document: PageDocument, parent: PageNode, contents: readonly Content[]) {
  const keyOf = (content: Content) =>
    typeof content === "string" ? undefined : content.attributes["data-key"];
  const keyOfNode = (node: PageNode) =>
    node.nodeType === 1 ? node.getAttribute("data-key") ?? undefined : undefined;
  const fits = (node: PageNode, content: Content) =>
    typeof content === "string"
      ? node.nodeType === 3
      : node.localName === content.tag && keyOfNode(node) === keyOf(content);
  const wanted = new Set(contents.map(keyOf));
  const known = new Map(Array.from(parent.childNodes, (node) => [keyOfNode(node), node]));

  let next = parent.firstChild;
  const removeNext = () => {
    const node = next!;
    next = node.nextSibling;
    node.remove();
  };
  for (const content of contents) {
    const key = keyOf(content);
    const own = key === undefined ? undefined : known.get(key);
    // Nobody knows that keys are unique.
    known.delete(key);
    if (key === undefined || own !== undefined) {
      while (next !== null && !fits(next, content)) {
        const nextKey = keyOfNode(next);
        if (nextKey !== undefined && wanted.has(nextKey)) break;
        removeNext();
      }
    }
    if (next !== null && fits(next, content)) {
      const node: PageNode = next;
      next = node.nextSibling;
      update(document, node, content);
    } else {
      const node = own !== undefined && fits(own, content)
        ? own
        : create(document, parent, content);
      update(document, node, content);
      parent.insertBefore(node, next);
    }
  }
  while (next !== null) removeNext();
}

export function create(document: PageDocument, parent: PageNode, content: Content): PageNode {
  if (typeof content === "string") return document.createTextNode(content);
  const namespace = content.tag === "svg" ? "http://www.w3.org/2000/svg" : parent.namespaceURI;
  return document.createElementNS(namespace, content.tag);
}

export function update(document: PageDocument, node: PageNode, content: Content): void {
  if (typeof content === "string") {
    if (node.textContent !== content) node.textContent = content;
    return;
  }
  const { attributes, children }: Element = content;
  for (const { name } of Array.from(node.attributes)) {
    if (!(name in attributes)) node.removeAttribute(name);
  }
  for (const [name, value] of Object.entries(attributes)) {
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
  patch(document, node, children);
}

/** Asks for the status again and again, but not while nobody looks, and tells when there is no answer. */
export function follow(document: PageDocument, version: string, intervalMs: number): void {
  const page = document.getElementById("page")!;
  const bar = document.getElementById("bar")!;
  const state = document.getElementById("state")!;
  const button = document.getElementById("pause")!;
  const timeoutMs = 5_000;
  /** How long it is said that the program answers again. */
  const relief = 5;

  let isPaused = false;
  let isAsking = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let answeredAt = Date.now();
  let isLost = false;
  let reliefs = 0;

  const say = (look: string, text: string) => {
    bar.setAttribute("class", look);
    // What has not changed is not to be read out again.
    if (state.textContent !== text) state.textContent = text;
  };
  const tell = () => {
    const since = formatTime(new Date(answeredAt).toISOString());
    if (isPaused) say("paused", `Paused. The page shows what was at ${since}.`);
    else if (isLost) {
      say("lost", `✗ No answer since ${since}. The page shows what was then; it goes on asking.`);
    } else if (reliefs === 0) say("live", `✓ Live, every ${formatDuration(intervalMs)}.`);
  };
  const ask = async () => {
    clearTimeout(timer);
    if (isPaused || isAsking || document.hidden) return;
    isAsking = true;
    try {
      const signal = AbortSignal.timeout(timeoutMs);
      const response = await fetch("status.json", { cache: "no-store", signal });
      if (!response.ok) throw new Error(response.statusText);
      const status: Status = await response.json();
      // Another version may mean another status: that one's own page knows how to show it.
      if (status.version !== version) return location.reload();
      if (!isPaused) {
        patch(document, page, view(status));
        document.title = titleOf(status);
      }
      if (isLost) {
        reliefs = relief;
        say("live", `✓ Answers again, after ${formatDuration(Date.now() - answeredAt)}.`);
      } else if (reliefs > 0) reliefs--;
      isLost = false;
      answeredAt = Date.now();
    } catch {
      isLost = true;
    } finally {
      isAsking = false;
    }
    tell();
    timer = setTimeout(ask, intervalMs);
  };

  button.hidden = false;
  button.addEventListener("click", () => {
    isPaused = !isPaused;
    button.textContent = isPaused ? "Resume" : "Pause";
    tell();
    ask();
  });
  document.addEventListener("visibilitychange", ask);
  tell();
  timer = setTimeout(ask, intervalMs);
}
