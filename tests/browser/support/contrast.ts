// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * Scripts for the browser. They are texts, since the types of documents are not among those of the project.
 */

const HELPERS = `
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgbOf = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  // WCAG 2.2, "relative luminance" and "contrast ratio".
  const luminance = ([r, g, b]) => {
    const [lr, lg, lb] = [r, g, b].map((part) =>
      part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4
    );
    return 0.2126 * lr + 0.7152 * lg + 0.0722 * lb;
  };
  const backgroundOf = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = rgbOf(getComputedStyle(each).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const rounded = (ratio) => Math.round(ratio * 100) / 100;
`;

/** Texts, and the lines of charts, with less contrast than they need. */
export const LOW_CONTRASTS = `(() => {
  ${HELPERS}
  const low = [];
  const tell = (element, color, needed, what) => {
    const ratio = contrast(rgbOf(color), backgroundOf(element));
    if (ratio < needed) low.push(what + ": " + rounded(ratio));
  };
  for (const element of document.querySelectorAll("body *")) {
    if (element.closest("script") || !element.checkVisibility()) continue;
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (hasText) tell(element, getComputedStyle(element).color, 4.5, element.textContent);
  }
  for (const line of document.querySelectorAll(".line")) {
    tell(line.closest(".chart"), getComputedStyle(line).stroke, 3, line.getAttribute("class"));
  }
  tell(document.body, getComputedStyle(document.querySelector("button")).borderTopColor, 3, "button");
  return low;
})()`;

/** By how many pixels the page is wider than its window, and the elements outside of boxes that are wider than it. */
export const OVERFLOW = `(() => {
  const { scrollWidth, clientWidth } = document.documentElement;
  const wide = [...document.querySelectorAll("body *")]
    .filter((element) => !element.closest(".box table, svg, script"))
    .filter((element) => element.getBoundingClientRect().right > clientWidth + 0.5)
    .map((element) => element.outerHTML.slice(0, 80));
  return { pixels: scrollWidth - clientWidth, wide };
})()`;
