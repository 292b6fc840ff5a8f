// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals, assertMatch } from "@std/assert";
import { formatStep, formatVerdict, Report, StepError } from "../../lib/cli/check/report.ts";
import { withSpinner } from "../../lib/cli/check/spinner.ts";
import { FakeTime } from "../support/fake_time.ts";
import { pureTest as test } from "../support/pure_test.ts";

test("formatStep() has mark, step, finding and time in columns and in one line", () => {
  assertEquals(
    formatStep("ok", "files", "can be read", 2.6),
    "ok       files: can be read (3 ms)",
  );
  assertEquals(formatStep("skipped", "files", "why"), "skipped  files: why");
  assertEquals(
    formatStep("FAIL", "a", "x\ny\u2028z\u001b[1m", 0),
    "FAIL     a: x y z [1m (0 ms)",
  );
});

test("formatVerdict() says what to fix first, or that all is well", () => {
  assertEquals(formatVerdict("open\nthe port", 1), "fix this first: open the port");
  assertEquals(formatVerdict(undefined, 0), "all checks passed");
  assertEquals(formatVerdict(undefined, 1), "all checks passed, with 1 warning");
  assertEquals(formatVerdict(undefined, 2), "all checks passed, with 2 warnings");
});

function reportOf(): { report: Report; lines: string[] } {
  const lines: string[] = [];
  let now = 0;
  return { report: new Report({ write: (line) => void lines.push(line) }, () => now++), lines };
}

test("Report runs the steps in turn and hands on what they found", async () => {
  const { report, lines } = reportOf();
  const one = await report.step("one", () => ({ found: "1", value: 1 }));
  const two = await report.after(one, "two", (n) => ({
    found: "2",
    value: n + 1,
    isWarning: true,
  }));
  assertEquals(two, 2);
  report.skip("three", "not needed");
  assertEquals(report.end(), true);
  assertEquals(lines, [
    "ok       one: 1 (1 ms)",
    "warn     two: 2 (1 ms)",
    "skipped  three: not needed",
    "all checks passed, with 1 warning",
  ]);
});

test("Report skips what needs a step that has failed, and names the first thing to fix", async () => {
  const { report, lines } = reportOf();
  const failed = await report.step("one", () => {
    throw new StepError("it is off", "switch it on");
  });
  await report.after(failed, "two", () => ({ found: "never", value: true }));
  await report.step("three", () => Promise.reject(new Error("something else")));
  assertEquals(report.end(), false);
  assertEquals(lines, [
    "FAIL     one: it is off (1 ms)",
    "skipped  two: an earlier step failed",
    "FAIL     three: something else (1 ms)",
    "fix this first: switch it on",
  ]);
});

test("Report ends a step that hangs", async () => {
  const { report, lines } = reportOf();
  await report.step("one", () => new Promise<never>(() => {}), 10);
  assertEquals(report.end(), false);
  assertMatch(lines[0]!, /^FAIL +one: not finished within 10 ms /);
});

test("withSpinner() shows a step that takes its time, in one line that the report's take over", async () => {
  using time = new FakeTime();
  let screen = "";
  const output = withSpinner(
    (line) => screen += `${line}\n`,
    (text) => screen += text,
    20,
  );
  const report = new Report(output);
  await report.step("quick", () => ({ found: "1", value: 1 }));
  const { promise, resolve } = Promise.withResolvers<{ found: string; value: number }>();
  const slow = report.step("slow\nand far too long", () => promise);
  await time.pass(250);
  resolve({ found: "2", value: 2 });
  await slow;
  await time.pass(1000);
  assertEquals(screen.split("\r\x1b[K"), [
    "",
    "ok       quick: 1 (0 ms)\n",
    "|        slow and f",
    "/        slow and f",
    "ok       slow and far too long: 2 (250 ms)\n",
  ]);
});
