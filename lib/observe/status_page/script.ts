// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/**
 * The page's script, made of the functions that draw the page on the server: their source text is the same program in
 * the browser. So each of them is exported, and refers to nothing but others of these modules and what a browser has.
 */
import * as chart from "./chart.ts";
import * as element from "./element.ts";
import * as format from "./format.ts";
import * as live from "./live.ts";
import * as tables from "./tables.ts";
import * as view from "./view.ts";

const REFRESH_MS = 2_000;

const functions = [element, format, chart, tables, view, live]
  .flatMap((module) => Object.values(module).map(String)).join("\n");

/** The functions by themselves, with what shall be done with them. */
export function scriptThat(does: string): string {
  return `"use strict";\n{\n${functions}\n${does}\n}`;
}

/** @param version of the program, of whose status the script knows the shape */
export function pageScript(version: string): string {
  // A less-than sign could end the script.
  const text = JSON.stringify(version).replaceAll("<", "\\u003c");
  return scriptThat(`follow(document, ${text}, ${REFRESH_MS});`);
}
