// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Updates the page in the browser. While the page is visible, fetches it periodically and changes
 * `#page` node by node to match, so that focus, selection and scroll positions stay. Shows when
 * responses fail. Reloads the page if the program's version changes.
 */
export const script = String.raw`
"use strict";
{
  const REFRESH_MS = 2000;
  const TIMEOUT_MS = 5000;
  // For so many answers the bar says that there are some again.
  const RELIEF_ANSWERS = 5;

  const [page, bar, state, button] = ["page", "bar", "state", "pause"]
    .map((id) => document.getElementById(id));

  // What tells an element from its siblings, so that it stays itself when some come or go.
  const keyOf = (node) => node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("data-key") : null;
  const isAlike = (a, b) => a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

  const update = (node, wanted) => {
    if (node.nodeType !== Node.ELEMENT_NODE) {
      if (node.data !== wanted.data) node.data = wanted.data;
      return;
    }
    for (const name of node.getAttributeNames()) {
      if (!wanted.hasAttribute(name)) node.removeAttribute(name);
    }
    for (const { name, value } of wanted.attributes) {
      if (node.getAttribute(name) !== value) node.setAttribute(name, value);
    }
    updateChildren(node, wanted);
  };

  const updateChildren = (parent, wantedParent) => {
    const wantedKeys = new Set(Array.from(wantedParent.childNodes, keyOf));
    for (const node of Array.from(parent.childNodes)) {
      if (!wantedKeys.has(keyOf(node))) node.remove();
    }
    const keyed = new Map(Array.from(parent.childNodes, (node) => [keyOf(node), node]));
    let next = parent.firstChild;
    for (const wanted of wantedParent.childNodes) {
      const key = keyOf(wanted);
      const node = key === null ? next : keyed.get(key);
      // Nobody knows that keys are unique.
      if (key !== null) keyed.delete(key);
      if (!node || !isAlike(node, wanted)) {
        parent.insertBefore(document.importNode(wanted, true), next);
        continue;
      }
      update(node, wanted);
      if (node === next) next = node.nextSibling;
      else parent.insertBefore(node, next);
    }
    while (next) {
      const last = next;
      next = last.nextSibling;
      last.remove();
    }
  };

  const formatTime = (ms) =>
    new Date(ms).toISOString().slice(0, 19).replace("T", "\u00a0") + "\u00a0UTC";
  const formatDuration = (ms) => {
    const units = [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000]];
    const [unit, size] = units.find(([, size]) => ms >= 2 * size) ?? ["s", 1000];
    return Math.floor(ms / size) + "\u00a0" + unit;
  };

  let isPaused = false;
  let isAsking = false;
  let isLost = false;
  let answersOfRelief = 0;
  let answeredAt = Date.now();
  let timer;

  const say = (look, text) => {
    bar.className = look;
    // What has not changed is not to be read out again.
    if (state.textContent !== text) state.textContent = text;
  };
  const sayState = () => {
    const since = formatTime(answeredAt);
    if (isPaused) say("paused", "Paused. The page shows the state of " + since + ".");
    else if (isLost) {
      const note = "The page shows the state of that time and keeps retrying.";
      say("lost", "✗ No response since " + since + ". " + note);
    } else if (answersOfRelief === 0) {
      say("live", "✓ Live, updated every " + formatDuration(REFRESH_MS) + ".");
    }
  };

  const show = (html) => {
    // The answer's style has a nonce of its own, which the policy of this document does not know.
    const withoutStyle = html.replace(/<style[^]*?<\/style>/, "");
    const wanted = new DOMParser().parseFromString(withoutStyle, "text/html");
    const wantedPage = wanted.getElementById("page");
    if (!wantedPage) throw new Error("this is another page");
    const versionOf = ({ documentElement }) => documentElement.dataset.version;
    if (versionOf(wanted) !== versionOf(document)) location.reload();
    else if (!isPaused) {
      updateChildren(page, wantedPage);
      document.title = wanted.title;
    }
  };
  const ask = async () => {
    clearTimeout(timer);
    if (isPaused || isAsking || document.hidden) return;
    isAsking = true;
    try {
      const signal = AbortSignal.timeout(TIMEOUT_MS);
      const response = await fetch(location.href, { cache: "no-store", signal });
      if (!response.ok) throw new Error(response.statusText);
      show(await response.text());
      if (isLost) {
        answersOfRelief = RELIEF_ANSWERS;
        say("live", "✓ Responding again after " + formatDuration(Date.now() - answeredAt) + ".");
      } else if (answersOfRelief > 0) answersOfRelief--;
      isLost = false;
      answeredAt = Date.now();
    } catch {
      isLost = true;
    } finally {
      isAsking = false;
    }
    sayState();
    timer = setTimeout(ask, REFRESH_MS);
  };

  button.hidden = false;
  button.addEventListener("click", () => {
    isPaused = !isPaused;
    button.textContent = isPaused ? "Resume" : "Pause";
    sayState();
    ask();
  });
  document.addEventListener("visibilitychange", ask);
  sayState();
  timer = setTimeout(ask, REFRESH_MS);
}
`;
