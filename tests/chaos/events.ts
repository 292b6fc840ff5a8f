// SPDX-FileCopyrightText: the quic-reverse-http-tunnel authors
// SPDX-License-Identifier: Apache-2.0

/** What happens to programs and links while the load runs. */
import { delay } from "@std/async/delay";
import { eventually } from "../support/eventually.ts";
import type { Impairment } from "../support/udp_relay.ts";
import type { Disruption, Disruptions } from "./disruptions.ts";
import type { Draws } from "./draws.ts";
import type { CarrierLink, Link, Way } from "./link.ts";
import type { Program } from "./program.ts";
import { DRAIN_MS, type Site, type SiteAgent } from "./site.ts";

export interface EventContext {
  /** What the event is called. */
  readonly kind: string;
  readonly site: Site;
  readonly draws: Draws;
  readonly disruptions: Disruptions;
  /** Says what is being done. */
  tell(what: string): void;
}

export type ChaosEvent = (context: EventContext) => Promise<void>;

/** Less than the 1.4 s after which silence ends a connection where data waits for an answer and another agent can serve. */
const BLIP_MS = [200, 1_000] as const;
/** More than the 5 s after which silence ends a connection. */
const OUTAGE_MS = [6_000, 9_000] as const;
/** Less than the 5 s after which silence ends a connection over a carrier. */
const STALL_MS = [500, 3_000] as const;
const LONG_STALL_MS = 10_000;
/** How long an agent may take to be back after that, and as much more on a busy machine. */
const BACK_MS = 2_000 * 2;
/** Time from an agent's move to TCP to its return to UDP: 15 s, a trial of 5 s, and what a busy machine takes. */
const RETURN_MS = 30_000;
/** Silence of UDP until an agent moves to TCP, what that takes, and more on a busy machine. */
const MOVE_MS = 15_000;
/** Time of a drain after which tunnels are cut that are silent. */
const CUTTING_MS = DRAIN_MS * 2 / 3;
/** Time that a program may take to end in order, beside its drain. */
const STOP_MS = 20_000;

const impairments: readonly Impairment[] = [
  {},
  { loss: 0.01 },
  { loss: 0.03 },
  { duplicate: 0.05 },
  { reorder: 0.05 },
  { delayMs: 10, jitterMs: 5 },
  { delayMs: 40 },
  { loss: 0.01, duplicate: 0.02, reorder: 0.02, delayMs: 5, jitterMs: 10 },
];

const ways: readonly Way[] = ["both", "toServer", "toClient"];

/** Does something that may make tunnels fail, all of the site unless told otherwise, until everybody is connected again. */
async function disrupt(
  context: EventContext,
  what: string,
  scope: Partial<Pick<Disruption, "agents" | "cutAt" | "newMayFail">>,
  act: () => Promise<void>,
): Promise<void> {
  const { kind, site, disruptions, tell } = context;
  tell(what);
  const disruption = disruptions.begin({ site: site.name, kind, agents: undefined, ...scope });
  await act();
  const since = performance.now();
  await site.recovered();
  disruptions.end(disruption);
  tell(`recovered after ${((performance.now() - since) / 1000).toFixed(1)} s`);
}

/** What events need; all of it is drawn each time, so that one event does not change what others draw. */
function draw({ draws, site }: EventContext) {
  return {
    agent: draws.one(site.agents),
    blipMs: draws.integer(...BLIP_MS),
    outageMs: draws.integer(...OUTAGE_MS),
    awayMs: draws.integer(0, 3_000),
  };
}

async function cut(link: Link, way: Way, ms: number): Promise<void> {
  link.cut(way);
  await delay(ms);
  link.restore();
}

async function stopped(program: Program, ms: number): Promise<void> {
  program.signal("SIGSTOP");
  try {
    await delay(ms);
  } finally {
    program.signal("SIGCONT");
  }
}

async function killed(program: Program, awayMs: number): Promise<void> {
  await program.kill();
  await delay(awayMs);
  await program.start();
}

async function restarted(program: Program): Promise<void> {
  await program.stop(DRAIN_MS + STOP_MS);
  await program.start();
}

/** Nothing of these may be noticed but by the time that it takes. */
export const harmless = {
  "impairment": async ({ site, draws, tell }) => {
    const { link, name } = draws.one(site.agents);
    const impairment = draws.one(impairments);
    tell(`link of ${name}: ${JSON.stringify(impairment)}`);
    link.impair(impairment);
    await delay(1_000);
  },
  "rebinding": async (context) => {
    const { agent } = draw(context);
    context.tell(`link of ${agent.name}: another port`);
    agent.link.rebind();
    await delay(1_000);
  },
  "short cut": async (context) => {
    const { agent, blipMs } = draw(context);
    context.tell(`link of ${agent.name}: cut for ${blipMs} ms`);
    await cut(agent.link, "both", blipMs);
    await delay(1_000);
  },
  "short stop of the server": async (context) => {
    const { blipMs } = draw(context);
    context.tell(`server: stopped for ${blipMs} ms`);
    await stopped(context.site.server, blipMs);
    await delay(1_000);
  },
  "short stop of an agent": async (context) => {
    const { agent, blipMs } = draw(context);
    context.tell(`${agent.name}: stopped for ${blipMs} ms`);
    await stopped(agent.program, blipMs);
    await delay(1_000);
  },
  "new certificates": async ({ site, tell }) => {
    if (!site.canReload) return;
    tell("new certificates of the same authority");
    await site.certificates.renew();
    await site.reload();
  },
  "new authority": async ({ site, tell }) => {
    if (!site.canReload) return;
    tell("new authority: trusted, then used, then the only one");
    await site.certificates.addAuthority();
    await site.reload();
    await site.certificates.renew();
    await site.reload();
    site.certificates.dropAuthorities();
    await site.reload();
  },
} satisfies Record<string, ChaosEvent>;

/** Connections end by these, but no program does. */
export const outages = {
  "long cut": async (context) => {
    const { agent: { name, link }, outageMs } = draw(context);
    const way = context.draws.one(ways);
    const what = `link of ${name}: cut ${way} for ${outageMs} ms`;
    await disrupt(context, what, { agents: [name] }, () => cut(link, way, outageMs));
  },
  "long stop of the server": async (context) => {
    const { outageMs } = draw(context);
    const what = `server: stopped for ${outageMs} ms`;
    await disrupt(context, what, {}, () => stopped(context.site.server, outageMs));
  },
  "long stop of an agent": async (context) => {
    const { agent: { name, program }, outageMs } = draw(context);
    const what = `${name}: stopped for ${outageMs} ms`;
    await disrupt(context, what, { agents: [name] }, () => stopped(program, outageMs));
  },
} satisfies Record<string, ChaosEvent>;

/** Programs end by these. */
export const endings = {
  "kill of the server": async (context) => {
    const { awayMs } = draw(context);
    const what = `server: killed for ${awayMs} ms`;
    await disrupt(context, what, {}, () => killed(context.site.server, awayMs));
  },
  "kill of an agent": async (context) => {
    const { agent: { name, program }, awayMs } = draw(context);
    const what = `${name}: killed for ${awayMs} ms`;
    await disrupt(context, what, { agents: [name] }, () => killed(program, awayMs));
  },
  "kill of all agents": async (context) => {
    const { awayMs } = draw(context);
    await disrupt(context, `all agents: killed for ${awayMs} ms`, {}, async () => {
      await Promise.all(context.site.agents.map(({ program }) => killed(program, awayMs)));
    });
  },
  "restart of the server": async (context) => {
    // New clients are refused as soon as it is told to stop; the others have the time of the drain.
    const scope = { cutAt: performance.now() + CUTTING_MS };
    const what = "server: told to stop, and started again";
    await disrupt(context, what, scope, () => restarted(context.site.server));
  },
  "restart of an agent": async (context) => {
    const { agent: { name, program, isRaw } } = draw(context);
    // Others take the new tunnels, where agents can say that they do not.
    const scope = { agents: [name], cutAt: performance.now() + CUTTING_MS, newMayFail: isRaw };
    const what = `${name}: told to stop, and started again`;
    await disrupt(context, what, scope, () => restarted(program));
  },
} satisfies Record<string, ChaosEvent>;

/** An agent whose only way is through carriers. */
function drawCarried({ draws, site }: EventContext): SiteAgent & { readonly carrier: CarrierLink } {
  const agents = site.agents.filter(({ transport }) => transport === "tcp");
  const { carrier, ...agent } = draws.one(agents);
  return { ...agent, carrier: carrier! };
}

async function stalled(carrier: CarrierLink, ms: number): Promise<void> {
  carrier.stall();
  await delay(ms);
  carrier.resume();
}

/** What agents over carriers must not notice but by the time that it takes. */
export const harmlessToCarriers = {
  "short stall of a carrier": async (context) => {
    const { name, carrier } = drawCarried(context);
    const ms = context.draws.integer(...STALL_MS);
    context.tell(`carrier of ${name}: stalls for ${ms} ms`);
    await stalled(carrier, ms);
    await delay(1_000);
  },
  "reset of a carrier": async (context) => {
    const { name, carrier } = drawCarried(context);
    const how = context.draws.one(["reset", "cut"] as const);
    context.tell(`carrier of ${name}: ${how === "reset" ? "RST" : "FIN"}`);
    carrier[how]();
    // Carriers that end soon after one another count as one that is missing.
    await delay(2_500);
  },
  "short stop of the server": harmless["short stop of the server"],
  "short stop of an agent": harmless["short stop of an agent"],
  "new certificates": harmless["new certificates"],
} satisfies Record<string, ChaosEvent>;

/** Connections over carriers end by these. */
export const carrierOutages = {
  "long stall of a carrier": async (context) => {
    const { name, carrier } = drawCarried(context);
    const { site } = context;
    const what = `carrier of ${name}: stalls for ${LONG_STALL_MS} ms`;
    await disrupt(context, what, { agents: [name] }, async () => {
      await stalled(carrier, LONG_STALL_MS);
      await eventually("it is back", () => site.transportOf(name) === "tcp", BACK_MS).catch(() =>
        site.options.violated(`${name} is not back ${BACK_MS} ms after a stall`)
      );
    });
  },
  "closed port for carriers": async (context) => {
    const { name, carrier } = drawCarried(context);
    const { outageMs } = draw(context);
    const what = `carrier of ${name}: its port is closed for ${outageMs} ms`;
    await disrupt(context, what, { agents: [name] }, async () => {
      carrier.closePort();
      await delay(outageMs);
      carrier.openPort();
    });
  },
  "long stop of the server": outages["long stop of the server"],
} satisfies Record<string, ChaosEvent>;

/** Has an agent move to TCP, by its start or later, and back, which must not disturb any tunnel. */
export async function blockUdp(context: EventContext): Promise<void> {
  const { site, draws, tell } = context;
  const { name, link, program } = site.agents.find(({ transport }) => transport === "auto")!;
  const moved = (to: "udp" | "tcp", ms: number) =>
    eventually(`${name} is over ${to}`, () => site.transportOf(name) === to, ms)
      .catch(() => site.options.violated(`${name} has not moved to ${to} within ${ms} ms`));
  const isAtStart = draws.chance(0.5);
  const what = `UDP of ${name}: blocked ${isAtStart ? "at its start" : "after its start"}`;
  await disrupt(context, what, { agents: [name] }, async () => {
    // It has forgotten then how often UDP has failed, after which it would be tried seldom.
    await program.kill();
    if (isAtStart) link.cut();
    await program.start();
    if (!isAtStart) await moved("udp", MOVE_MS);
    link.cut();
    await moved("tcp", MOVE_MS);
    link.restore();
  });
  await moved("udp", RETURN_MS);
  tell(`UDP of ${name}: in use again`);
}
