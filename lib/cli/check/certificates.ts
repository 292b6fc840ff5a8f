// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** Steps about the certificates, keys and CAs of a program. */
import { type Certificate, hostNamesOf, listNames } from "../../tls/certificate.ts";
import type { Authority } from "../../net/authority.ts";
import { quote } from "../../printable.ts";
import { readTlsFiles, type TlsFiles } from "../../tls/files.ts";
import { checkTlsFiles, type TlsMaterial, type TryOut } from "../../tls/material.ts";
import { DAY_MS, expiryOf } from "../../tls/expiry.ts";
import { invalidity, isForHost } from "../../tls/faults.ts";
import { usabilityOf } from "../../tls/usability.ts";
import { DEFAULT_SERVER_NAME } from "../program_flags.ts";
import { type Found, type Report, StepError } from "./report.ts";

const MAX_LEFT_OUT = 5;

/**
 * Reads and checks the files of one side.
 *
 * @param side `tls`: those of a server's TLS listener for clients
 * @param tryOut has the TLS library load them. @default {that of the binding}
 * @returns what is in them if all is well, and the server's address if a bundle has it
 */
export async function checkCertificates(
  report: Report,
  files: TlsFiles,
  side: "server" | "client" | "tls",
  tryOut?: TryOut,
): Promise<{ tls?: TlsMaterial | undefined; server?: Authority | undefined }> {
  const step = (name: string) => side === "tls" ? `tls ${name}` : name;
  const contents = await report.step(step("files"), async () => {
    const value = await readTlsFiles(files);
    const { flag, givenWith } = value.key;
    const key = givenWith ?? flag;
    const names = "bundle" in files ? key : `${files.caFlag}, ${value.cert.flag} and ${key}`;
    const found = `${names} can be read`;
    if (!value.key.isPublic) return { found, value };
    return { found: `${found}, ${key} by all users (chmod o-r)`, value, isWarning: true };
  });
  const now = new Date();
  const material = await report.after(contents, step("certificates"), (contents) => {
    const value = checkTlsFiles(contents, { now, tryOut });
    const subject = value.info.subject ? quote(value.info.subject) : "the certificate";
    const found = `${subject} matches its key and is valid`;
    if (value.leftOut.length === 0) return { found, value };
    return { found: `${found}; not used: ${describeLeftOut(value, now)}`, value, isWarning: true };
  });
  await report.after(material, step("expiry"), (material) => checkExpiry(material, now));
  const fits = await report.after(
    material,
    step("purpose"),
    ({ leaf }) => side === "client" ? checkClient(leaf) : checkServer(leaf, side),
  );
  return { tls: fits && material, server: contents?.server };
}

/** Certificates that are not valid now, each with its file. */
function describeLeftOut({ leftOut }: TlsMaterial, now: Date): string {
  const shown = leftOut.slice(0, MAX_LEFT_OUT).map(({ flag, info }) =>
    `${quote(info.subject)} in ${flag} ${invalidity(info, now)}`
  );
  const more = leftOut.length - shown.length;
  return shown.join(", ") + (more > 0 ? ` and ${more} more` : "");
}

/** Which file is of no use first, because its certificates have expired. */
function checkExpiry({ certificates }: TlsMaterial, now: Date): Found {
  const [first] = usabilityOf(certificates, now).toSorted((a, b) =>
    a.decisive.notAfter.getTime() - b.decisive.notAfter.getTime()
  );
  const { flag, decisive: info } = first!;
  const days = Math.floor((info.notAfter.getTime() - now.getTime()) / DAY_MS);
  const found = `${flag} expires first, on ${info.notAfter.toISOString()}, in ${days} days`;
  return { found, value: true, isWarning: expiryOf(info, now) !== "far" };
}

function checkServer(leaf: Certificate, side: "server" | "tls"): Found {
  if (!leaf.servesAsServer) {
    const flag = side === "tls" ? "--tls-cert-file" : "--cert-file";
    throw new StepError(
      "the certificate is not meant for servers (extendedKeyUsage)",
      `set ${flag} to a certificate for servers (serverAuth)`,
    );
  }
  const names = listNames(hostNamesOf(leaf)) || "no name";
  if (side === "tls") {
    const isWarning = names === "no name";
    return { found: `for servers, names that clients may call: ${names}`, value: true, isWarning };
  }
  if (isForHost(leaf, DEFAULT_SERVER_NAME)) {
    return { found: `for servers, names: ${names}`, value: true };
  }
  const found = `for servers, names: ${names}, not ${DEFAULT_SERVER_NAME}: ` +
    "agents need --server-name";
  return { found, value: true, isWarning: true };
}

function checkClient(leaf: Certificate): Found {
  if (leaf.servesAsClient) return { found: "for clients", value: true };
  throw new StepError(
    "the certificate is not meant for clients (extendedKeyUsage)",
    "set --cert-file to a certificate for clients (clientAuth)",
  );
}
