// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

import { assertEquals } from "@std/assert";
import {
  type Browser,
  type BrowserContext,
  type BrowserContextOptions,
  chromium,
  type Page,
} from "playwright-core";
import { findProgram, missingProgram } from "../../support/required_programs.ts";

/** Starts Chromium, with an empty profile that goes away with it, and further arguments. */
export async function startChromium(...args: string[]): Promise<Browser> {
  const executablePath = findProgram("chromium");
  if (executablePath === undefined) throw missingProgram("chromium");
  return await chromium.launch({
    executablePath,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      ...args,
    ],
  });
}

/** A tab in a window of its own, which notes everything that it has no reason to do. */
export class Tab implements AsyncDisposable {
  /** Errors in the console, among them violations of the page's policy, and requests that went elsewhere. */
  readonly complaints: string[] = [];

  private constructor(readonly context: BrowserContext, readonly page: Page, url: string) {
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) this.complaints.push(message.text());
    });
    page.on("pageerror", (error) => this.complaints.push(String(error)));
    page.on("dialog", (dialog) => {
      this.complaints.push(`dialog: ${dialog.message()}`);
      dialog.dismiss();
    });
    page.on("request", (request) => {
      const target = request.url();
      if (target !== url && !target.startsWith("data:")) this.complaints.push(`request: ${target}`);
    });
  }

  static async open(
    browser: Browser,
    url: string,
    options: BrowserContextOptions = {},
    prepare: (page: Page) => Promise<unknown> = () => Promise.resolve(),
  ): Promise<Tab> {
    const context = await browser.newContext({ reducedMotion: "reduce", ...options });
    const tab = new Tab(context, await context.newPage(), url);
    await prepare(tab.page);
    await tab.page.goto(url);
    return tab;
  }

  /** The text in view, with ordinary spaces. */
  async text(selector = "body"): Promise<string> {
    return (await this.page.innerText(selector)).replaceAll("\u00a0", " ");
  }

  /** @throws {AssertionError} if there was a complaint */
  assertQuiet(): void {
    assertEquals(this.complaints, []);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.context.close();
  }
}
