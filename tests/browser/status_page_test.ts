// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The status page in Chromium. Leaves pictures of it in dist/screenshots, to be looked at. */
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import type { StatusTunnel } from "../../lib/observe/status.ts";
import { busyStatus, hostileStatus, idleStatus, PROGRAMS } from "../support/status.ts";
import { eventually } from "../support/eventually.ts";
import { startChromium, Tab } from "./support/chromium.ts";
import { LOW_CONTRASTS, OVERFLOW } from "./support/contrast.ts";
import { StatusSite } from "./support/status_site.ts";

const SCREENSHOTS = new URL("../../dist/screenshots/", import.meta.url);
const WIDTHS = [320, 768, 1_440, 1_920];
const THEMES = ["light", "dark"] as const;

const looks = [
  ...PROGRAMS.map((program) => ({ name: program, status: busyStatus(program) })),
  { name: "idle", status: idleStatus() },
  { name: "hostile", status: hostileStatus("proxy-agent") },
];

for (const { name, status } of looks) {
  Deno.test(`the status page (${name}) is legible in both themes, and as wide as its window`, async () => {
    await using site = new StatusSite(status);
    await using browser = await startChromium();
    await Deno.mkdir(SCREENSHOTS, { recursive: true });
    for (const colorScheme of THEMES) {
      await using tab = await Tab.open(browser, site.url, { colorScheme });
      for (const width of WIDTHS) {
        await tab.page.setViewportSize({ width, height: 900 });
        assertEquals(await tab.page.evaluate(OVERFLOW), { pixels: 0, wide: [] }, `${width}`);
        const { pathname } = new URL(`${name}-${colorScheme}-${width}.png`, SCREENSHOTS);
        await tab.page.screenshot({ path: pathname, fullPage: true });
      }
      assertEquals(await tab.page.evaluate(LOW_CONTRASTS), [], colorScheme);
      assertEquals(await tab.page.evaluate("document.getAnimations().length"), 0);
      tab.assertQuiet();
    }
  });
}

Deno.test("the status page follows the status, and looks as if it were new", async () => {
  const busy = busyStatus("proxy-agent");
  const [one, two, three, ...rest] = busy.tunnels.latest;
  const withTunnels = (...latest: StatusTunnel[]) => ({ ...busy, tunnels: { open: 9, latest } });
  const [first, ...others] = [
    ...[...looks, ...looks.toReversed()].map(({ status }) => status),
    busy,
    withTunnels(...rest, three!, one!),
    withTunnels(one!, one!, two!, one!), // the same one more than once
    withTunnels(two!, one!),
    busy,
  ];
  await using site = new StatusSite(first!);
  await using browser = await startChromium();
  await using live = await Tab.open(browser, site.url, {}, (page) => page.clock.install());
  const content = (tab: Tab) => tab.page.locator("#page").innerHTML();
  for (const status of others) {
    site.status = status;
    await using fresh = await Tab.open(browser, site.url);
    const expected = await content(fresh);
    await live.page.clock.runFor(2_000);
    await eventually("the page has changed", async () => await content(live) === expected);
    assertEquals(await live.page.title(), await fresh.page.title());
    fresh.assertQuiet();
  }
  live.assertQuiet();
});

Deno.test("the status page keeps what is scrolled, in focus and selected", async () => {
  const status = hostileStatus();
  await using site = new StatusSite(status);
  await using browser = await startChromium();
  await using tab = await Tab.open(browser, site.url, { viewport: { width: 768, height: 900 } });
  const { page } = tab;
  await page.evaluate(`
    box = document.querySelector("[data-key=tunnels] .box");
    box.focus();
    box.scrollTo(40, 700);
    cell = box.querySelectorAll("tr")[3].querySelector("td");
    getSelection().selectAllChildren(cell);
    selected = getSelection().toString();
    scrollTo(0, 500);
    changes = 0;
    new MutationObserver((records) => changes += records.length)
      .observe(document.getElementById("page"), { childList: true, subtree: true });
  `);
  const [gone, ...latest] = status.tunnels.latest;
  const begun = { ...gone!, id: "the new one", client: "the new client" };
  // One has ended, one has begun.
  site.status = { ...status, tunnels: { open: 12_346, latest: [begun, ...latest] } };
  await eventually("it is shown", async () => (await tab.text("main")).includes("the new client"));
  assertEquals(
    await page.evaluate(`({
      isSelected: getSelection().toString() === selected && cell.isConnected,
      isFocused: document.activeElement === box,
      scrolled: [box.scrollLeft, box.scrollTop > 600, scrollY],
      changes,
    })`),
    { isSelected: true, isFocused: true, scrolled: [40, true, 500], changes: 2 },
  );
  tab.assertQuiet();
});

Deno.test("the status page says when the program does not answer, and when it does again", async () => {
  await using site = new StatusSite(busyStatus());
  await using browser = await startChromium();
  await using tab = await Tab.open(browser, site.url);
  const says = (pattern: RegExp) =>
    eventually(`it says ${pattern}`, async () => pattern.test(await tab.text("#bar")));
  await says(/✓ Live, updated every 2 s/);
  await site.stop();
  await says(/✗ No response since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC/);
  await tab.page.screenshot({ path: new URL("no-answer.png", SCREENSHOTS).pathname });
  assertEquals(await tab.page.evaluate(LOW_CONTRASTS), []);
  site.status = { ...busyStatus(), name: "edge-2" };
  site.resume();
  await says(/✓ Responding again after \d+ s/);
  assertStringIncludes(await tab.text("h1"), "edge-2");
  // The browser itself complains that it could not connect.
  assert(tab.complaints.every((complaint) => complaint.includes("net::ERR_")));
});

Deno.test("the status page says so when what answers is not the status page", async () => {
  await using site = new StatusSite(busyStatus());
  await using browser = await startChromium();
  await using tab = await Tab.open(browser, site.url);
  site.answer = new Response("<p>Log in first", { headers: { "Content-Type": "text/html" } });
  await eventually("it says so", async () => (await tab.text("#bar")).includes("No response"));
  assertStringIncludes(await tab.text("main"), "agent-1.example");
  tab.assertQuiet();
});

Deno.test("the status page asks for nothing while it is hidden or paused", async () => {
  await using site = new StatusSite(busyStatus());
  await using browser = await startChromium();
  await using tab = await Tab.open(browser, site.url, {}, (page) => page.clock.install());
  const { page } = tab;
  const setHidden = (hidden: boolean) =>
    page.evaluate(`
      Object.defineProperty(document, "hidden", { value: ${hidden}, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    `);
  const asksOnce = async () => {
    const before = site.asked;
    await page.clock.runFor(2_000);
    await eventually("it asks", () => site.asked === before + 1);
  };
  /** So much time passes, to no effect. */
  const asksNothing = async () => {
    const before = site.asked;
    await page.clock.runFor(60_000);
    assertEquals(site.asked, before);
  };
  await asksOnce();
  await setHidden(true);
  await asksNothing();
  await setHidden(false);
  await eventually("it asks at once", () => site.asked === 2);

  await page.getByRole("button", { name: "Pause" }).click();
  assertMatch(await tab.text("#bar"), /^Paused\./);
  assertEquals(await page.evaluate(LOW_CONTRASTS), []);
  await asksNothing();
  await page.getByRole("button", { name: "Resume" }).click();
  await eventually("it asks at once", () => site.asked === 3);
  await eventually("it says so", async () => (await tab.text("#bar")).startsWith("✓ Live"));
  tab.assertQuiet();
});

Deno.test("the status page loads anew what another version of the program serves", async () => {
  await using site = new StatusSite(busyStatus());
  await using browser = await startChromium();
  await using tab = await Tab.open(browser, site.url);
  await tab.page.evaluate("isOld = true");
  site.status = { ...busyStatus(), version: "0.2.0" };
  await eventually("it is another document", () => tab.page.evaluate("!globalThis.isOld"));
  assertStringIncludes(await tab.text(), "Version 0.2.0");
  tab.assertQuiet();
});

Deno.test("the status page without JavaScript has the same tables, and says how to update it", async () => {
  await using site = new StatusSite(busyStatus("proxy-agent"));
  await using browser = await startChromium();
  await using tab = await Tab.open(browser, site.url, { javaScriptEnabled: false });
  const text = await tab.text();
  assertStringIncludes(text, "Reload the page to update it");
  assertStringIncludes(text, "server-2.example");
  assertStringIncludes(text, "kubelet-3.internal:10250");
  assertEquals(await tab.page.getByRole("button").count(), 0);
  assertEquals(await tab.page.getByRole("table", { name: "Servers" }).count(), 1);
  assertEquals(
    await tab.page.getByRole("img", { name: /^Throughput, the last 10.min/ }).count(),
    1,
  );
  tab.assertQuiet();
});

Deno.test("the status page shows where the keyboard's focus is", async () => {
  await using site = new StatusSite(busyStatus());
  await using browser = await startChromium();
  await using tab = await Tab.open(browser, site.url);
  const focused: unknown[] = [];
  for (let i = 0; i < 5; i++) {
    await tab.page.keyboard.press("Tab");
    focused.push(
      await tab.page.evaluate(`(() => {
        const { activeElement: element } = document;
        const label = document.getElementById(element.getAttribute("aria-labelledby"));
        return [(label ?? element).textContent, getComputedStyle(element).outlineStyle];
      })()`),
    );
  }
  assertEquals(focused, [
    ["Pause", "solid"],
    ["Groups", "solid"],
    ["Agents", "solid"],
    ["Tunnels in progress", "solid"],
    ["Certificates", "solid"],
  ]);
});
