// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Style of the page. In both themes, text has a contrast of 4.5, lines of 3 (WCAG 2.2, AA). */
export const style = `
:root {
  color-scheme: light dark;
  --back: #f4f6f8; --surface: #fff; --text: #1b222b; --muted: #566170; --edge: #d9dfe6; --grid: #e4e8ed;
  --control: #7b8694;
  --line-0: #1f63c6; --line-1: #b4530a;
  --good: #17703a; --warn: #8a5800; --bad: #b3261e; --bad-back: #fdecea; --good-back: #e7f5ec;
}
@media (prefers-color-scheme: dark) {
  :root {
    --back: #0f1318; --surface: #181d24; --text: #e4e9ef; --muted: #9ba7b5; --edge: #2c3540; --grid: #29313b;
    --control: #768291;
    --line-0: #6fa8ff; --line-1: #f2a65a;
    --good: #58c983; --warn: #e2b341; --bad: #ff8f85; --bad-back: #3a1b1a; --good-back: #14301f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 0 clamp(0.75rem, 2vw, 1.5rem) 2rem; max-width: 100rem;
  background: var(--back); color: var(--text);
  font: 0.875rem/1.45 system-ui, sans-serif; font-variant-numeric: tabular-nums;
  -webkit-text-size-adjust: 100%; text-size-adjust: 100%;
}
h1, h2, h3, p, ul, dl, dd, figure { margin: 0; padding: 0; }
h1 { font-size: 1.375rem; line-height: 1.2; overflow-wrap: anywhere; }
h1 bdi { font-weight: 400; }
h2 { font-size: 1rem; margin: 1.5rem 0 0.5rem; }
h3 { font-size: 0.875rem; }
bdi { overflow-wrap: anywhere; }
code { font: 0.8125rem ui-monospace, monospace; white-space: nowrap; }
time { white-space: nowrap; }
small { font-size: 0.75rem; }
.muted { color: var(--muted); }
.good { color: var(--good); }
.warn { color: var(--warn); }
.bad { color: var(--bad); }

#bar {
  position: sticky; top: 0; z-index: 1; display: flex; justify-content: space-between; align-items: center;
  gap: 1rem; min-height: 2.5rem; padding: 0.25rem 0; background: var(--back); color: var(--muted);
  border-bottom: 1px solid var(--edge);
}
#bar.lost { color: var(--bad); font-weight: 600; border-bottom: 2px solid; }
#bar.paused { color: var(--warn); border-bottom: 2px solid; }
#bar.lost ~ #page { filter: grayscale(1); }
button {
  font: inherit; color: var(--text); background: var(--surface); padding: 0.125rem 0.75rem;
  border: 1px solid var(--control); border-radius: 0.375rem; cursor: pointer; flex: none;
}
:focus-visible { outline: 2px solid var(--line-0); outline-offset: 2px; }

header { padding: 1rem 0; display: grid; gap: 0.375rem; }
.heading { display: flex; flex-wrap: wrap; gap: 0.5rem 0.75rem; align-items: center; }
.badge { padding: 0.125rem 0.625rem; border: 1px solid; border-radius: 1rem; font-weight: 600; }
.badge.good { background: var(--good-back); }
.badge.bad { background: var(--bad-back); }
.checks { list-style: none; display: flex; flex-wrap: wrap; gap: 0.125rem 1rem; overflow-wrap: anywhere; }
.checks span { color: var(--text); }
.checks .bad { flex-basis: 100%; order: -1; font-weight: 600; }

.figures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0.5rem; }
@media (min-width: 36rem) { .figures { grid-template-columns: repeat(3, minmax(0, 1fr)); } }
@media (min-width: 66rem) { .figures { grid-template-columns: repeat(6, minmax(0, 1fr)); } }
.figures > div, .chart, .box, .empty {
  background: var(--surface); border: 1px solid var(--edge); border-radius: 0.5rem;
}
.figures > div { padding: 0.5rem 0.75rem; }
.figures dt { color: var(--muted); font-size: 0.8125rem; }
.figures dd { display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 0.5rem; }
.figures b { font-size: 1.25rem; font-weight: 600; line-height: 1.3; white-space: nowrap; }
.figures dd span { font-size: 0.75rem; }

.charts { display: grid; grid-template-columns: minmax(0, 1fr); gap: 0.5rem; }
@media (min-width: 44rem) { .charts { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media (min-width: 98rem) { .charts { grid-template-columns: repeat(4, minmax(0, 1fr)); } }
.chart { padding: 0.625rem 0.75rem; container-type: inline-size; display: flex; flex-direction: column; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: 0.8125rem; }
.legend li { display: flex; flex-wrap: wrap; gap: 0 0.375rem; align-items: center; }
.legend svg { width: 1.5rem; height: 0.625rem; }
.plot {
  display: grid; grid-template: 7.5rem auto / 4.5rem minmax(0, 1fr); gap: 0.75rem 0.5rem;
  margin: auto 0.5rem 0 0; padding-top: 0.75rem; color: var(--muted); font-size: 0.75rem; line-height: 1;
}
.plot > svg { grid-area: 1 / 2; width: 100%; height: 100%; overflow: visible; }
.y, .x { display: flex; justify-content: space-between; white-space: nowrap; }
/* Half of a line is above the first gridline, and below the last. */
.y { grid-area: 1 / 1; flex-direction: column; text-align: right; margin: -0.5em 0; }
.x { grid-area: 2 / 2; }
/* The middle of a label is below its gridline. */
.x span { width: 0; display: flex; justify-content: center; }
@container (max-width: 25rem) { .x span:nth-last-child(even) { visibility: hidden; } }
.no-data { grid-area: 1 / 2; align-self: center; justify-self: center; padding: 0.25rem; background: var(--surface); }
path { fill: none; vector-effect: non-scaling-stroke; }
.grid { stroke: var(--grid); }
.line { stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.line-0 { stroke: var(--line-0); }
.line-1 { stroke: var(--line-1); stroke-dasharray: 5 4; }

.box { overflow: auto; max-height: min(36rem, 75vh); }
table { border-collapse: separate; border-spacing: 0; width: 100%; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { padding: 0.3125rem 0.75rem; text-align: left; vertical-align: top; border-top: 1px solid var(--edge); }
thead th {
  position: sticky; top: 0; background: var(--surface); color: var(--muted); font-size: 0.8125rem; font-weight: 600;
  white-space: nowrap; border-top: 0; border-bottom: 1px solid var(--edge);
}
tbody tr:first-child > * { border-top: 0; }
tbody th { font-weight: 600; }
tbody tr:hover > * { background: var(--back); }
td, tbody th { white-space: nowrap; }
/* A long name is broken into lines, but not below a minimum width: then the box scrolls. */
td bdi, tbody th bdi, .names {
  display: inline-block; width: max-content; max-width: min(22rem, 60vw); white-space: normal; vertical-align: top;
}
td .names bdi { display: inline; }
.number { text-align: right; }
.number small { display: block; }
.empty { padding: 0.75rem; color: var(--muted); max-width: none; }
section > p.muted { margin-top: 0.375rem; }
@media (forced-colors: active) {
  .line-0, .line-1 { stroke: CanvasText; }
  .grid { stroke: GrayText; }
}
`;
