// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** The TLS files of a program, read again while it runs. */
import { createHash } from "node:crypto";
import { AnchorChoice } from "./anchor_choice.ts";
import { certificateFields } from "./certificate.ts";
import { messageOf } from "../errors.ts";
import { logger } from "../log.ts";
import type { TlsIdentity, TlsSource } from "../quic/mod.ts";
import type { Authority } from "../net/authority.ts";
import { sleep } from "../wait.ts";
import { readTlsFiles, type TlsFileContents, type TlsFiles } from "./files.ts";
import { checkTlsFiles, type TlsMaterial, type TryOut } from "./material.ts";
import { ExpiryLog } from "./expiry.ts";

/** How often the files are read. */
const RELOAD_INTERVAL_MS = 10_000;

const log = logger("tls");

/** Pause before an unusable set is read again and rejected: files may be replaced one by one. */
const SETTLE_MS = 200;

/** A set that cannot be used. */
interface UnusableSet {
  /** Digest of its files, or the fault of one that cannot be read. */
  readonly version: string;
  readonly error: unknown;
}

export interface WatchOptions {
  /** Ends the watch. */
  readonly signal: AbortSignal;
  /** Registers a listener, which is called when an operator asks for the files to be read. */
  readonly onHangup?: (listener: () => void) => void;
  /** How often the files are read. @default {10000} */
  readonly intervalMs?: number;
}

/**
 * Certificates and key of a program, as they are in its files.
 *
 * The files are replaced as a set: one that does not match is rejected, and the current one stays
 * in use. Only contents count, so files may be written, renamed or linked.
 */
export class ReloadingTls implements TlsSource {
  readonly #files: TlsFiles;
  readonly #now: () => Date;
  readonly #tryOut: TryOut | undefined;
  readonly #expiry = new ExpiryLog(log);
  #contents: TlsFileContents;
  #choice: AnchorChoice;
  /** Of the set in use. */
  #digest: string;
  /** `version` of the last set that was refused, which has been logged. */
  #refused: string | undefined;
  #last: Promise<void> = Promise.resolve();
  #next: Promise<void> | undefined;

  private constructor(
    files: TlsFiles,
    contents: TlsFileContents,
    now: () => Date,
    tryOut: TryOut | undefined,
  ) {
    this.#files = files;
    this.#now = now;
    this.#tryOut = tryOut;
    this.#contents = contents;
    this.#choice = new AnchorChoice(this.#check(contents, now()));
    this.#digest = digestOf(contents);
  }

  /**
   * Reads the files for the first time.
   *
   * @param options.now the time that the validity is checked at. @default {the clock's}
   * @param options.tryOut has the TLS library load each set of files. @default {that of QUIC}
   * @throws {UsageError} when they cannot be used: one line that names flag and path
   * @throws {NativeLibraryError} when the TLS library cannot be loaded
   */
  static async load(
    files: TlsFiles,
    options: { readonly now?: () => Date; readonly tryOut?: TryOut } = {},
  ): Promise<ReloadingTls> {
    const contents = await readTlsFiles(files);
    const { now = () => new Date(), tryOut } = options;
    return new ReloadingTls(files, contents, now, tryOut);
  }

  /** The last set that was good. */
  get current(): TlsMaterial {
    return this.#choice.current;
  }

  /** The server's address, if a bundle has it. */
  get server(): Authority | undefined {
    return this.#contents.server;
  }

  identityFor(hostname: string): TlsIdentity {
    return this.#choice.identityFor(hostname);
  }

  refused(hostname: string, chain: readonly Uint8Array[]): boolean {
    return this.#choice.refused(hostname, chain);
  }

  /**
   * Reads the files at intervals and on SIGHUP until the signal aborts. Logs the outcome, and
   * certificates that expire soon. Never rejects.
   */
  async watch({ signal, onHangup, intervalMs = RELOAD_INTERVAL_MS }: WatchOptions): Promise<void> {
    log.info("certificates loaded", this.#fields);
    this.#warnOfPublicKey();
    onHangup?.(() => {
      if (!signal.aborted) void this.reload();
    });
    while (!signal.aborted) {
      const now = this.#now();
      this.#revise(now);
      this.#expiry.report(this.current.certificates, now);
      await sleep(intervalMs, signal);
      if (!signal.aborted) await this.#inTurn(false);
    }
  }

  /** Reads the files now, and logs the outcome in any case. Never rejects. */
  reload(): Promise<void> {
    // A request that has not begun yet serves all who ask.
    this.#next ??= this.#inTurn(true);
    return this.#next;
  }

  /** One after the other, so that nothing older replaces what is newer. */
  #inTurn(isAsked: boolean): Promise<void> {
    return this.#last = this.#last.then(() => {
      if (isAsked) this.#next = undefined;
      return this.#read(isAsked);
    });
  }

  async #read(isAsked: boolean): Promise<void> {
    let unusable = await this.#take(isAsked);
    if (unusable && unusable.version !== this.#refused) {
      await sleep(SETTLE_MS);
      unusable = await this.#take(isAsked);
    }
    if (unusable) this.#refuse(unusable, isAsked);
  }

  /** Takes over what is in the files, if it has changed. Returns it when it cannot be used. */
  async #take(isAsked: boolean): Promise<UnusableSet | undefined> {
    let version: string | undefined;
    try {
      const contents = await readTlsFiles(this.#files, this.#contents);
      version = digestOf(contents);
      if (version === this.#digest) this.#unchanged(isAsked);
      else this.#replace(contents, version);
      return undefined;
    } catch (error) {
      return { version: version ?? messageOf(error), error };
    }
  }

  /** @throws {UsageError} when the set cannot be used */
  #replace(contents: TlsFileContents, digest: string): void {
    const material = this.#check(contents, this.#now());
    [this.#contents, this.#digest] = [contents, digest];
    this.#choice = new AnchorChoice(material);
    this.#refused = undefined;
    log.info("certificates reloaded", this.#fields);
    this.#warnOfPublicKey();
    this.#expiry.report(material.certificates, this.#now());
  }

  /** Uses other certificates of the same files when one has become valid, or has expired. */
  #revise(now: Date): void {
    const { changesAt } = this.current;
    if (changesAt === undefined || now < changesAt) return;
    try {
      this.#choice = new AnchorChoice(this.#check(this.#contents, now));
    } catch {
      // The own certificate has expired, or all CAs have, which the expiry log says.
    }
  }

  /** @throws {UsageError} when the set cannot be used */
  #check(contents: TlsFileContents, now: Date): TlsMaterial {
    return checkTlsFiles(contents, { now, tryOut: this.#tryOut });
  }

  /** Logs it also when a set that was refused is gone again. */
  #unchanged(isAsked: boolean): void {
    if (isAsked || this.#refused !== undefined) log.info("certificates unchanged", this.#fields);
    this.#refused = undefined;
  }

  /** Logs a rejected set once, or at each request. It is tried again: it may become valid later. */
  #refuse({ version, error }: UnusableSet, isAsked: boolean): void {
    if (version === this.#refused && !isAsked) return;
    this.#refused = version;
    log.error("certificates not reloaded", {
      file: this.#file,
      error: messageOf(error),
      inUse: this.current.info.fingerprint256,
    });
  }

  /** The flag of the certificate's file, where a program has several. */
  get #file(): string | undefined {
    return "certFlag" in this.#files ? this.#files.certFlag : undefined;
  }

  #warnOfPublicKey(): void {
    const { isPublic, path, flag, givenWith } = this.#contents.key;
    if (!isPublic) return;
    log.warn("all users can read the private key", { file: givenWith ?? flag, path });
  }

  get #fields() {
    const { info, certificates } = this.current;
    return { file: this.#file, ...certificateFields(info), certificates: certificates.length };
  }
}

function digestOf({ ca, cert, key }: TlsFileContents): string {
  const hash = createHash("sha256");
  for (const { bytes } of [ca, cert, key]) hash.update(`${bytes.length} `).update(bytes);
  return hash.digest("hex");
}
