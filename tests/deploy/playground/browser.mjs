// Chromium with the page open, and what holds of every check: no error, no word in the console, no request elsewhere.

import { strict as assert } from "node:assert";
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

export const XSS = readFileSync(new URL("xss.md", import.meta.url), "utf8");
export const DESK = { width: 1360, height: 860 };
const CHATTER = ["verbose", "debug", "info", "log"];
const FAILED_ANSWER = /^Failed to load resource: the server responded with a status of (400|401)/;

const checks = new Map();
export const check = (name, played) => checks.set(name, played);

/** Runs each check with browser contexts of its own; yields {name, error}. */
export async function* played(executable) {
  const browser = await chromium.launch({ executablePath: executable, args: ["--no-sandbox"] });
  try {
    for (const [name, check] of checks) yield { name, error: await errorOf(check, browser) };
  } finally {
    await browser.close();
  }
}

async function errorOf(check, browser) {
  const visits = [];
  try {
    await check((options) => visit(browser, visits, options));
    for (const one of visits) assert.deepEqual(one.complaints, []);
    return null;
  } catch (error) {
    return String(error.stack ?? error);
  } finally {
    await Promise.all(visits.map((one) => one.context.close()));
  }
}

async function visit(browser, visits, { url, ...options }) {
  const context = await browser.newContext({ viewport: DESK, colorScheme: "light", ...options });
  const complaints = [];
  visits.push({ context, complaints });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.on("pageerror", (error) => complaints.push(`error: ${error.message}`));
  page.on("dialog", (dialog) => complaints.push(`dialog: ${dialog.message()}`));
  page.on("console", (message) => {
    const expected = CHATTER.includes(message.type()) || FAILED_ANSWER.test(message.text());
    if (!expected) complaints.push(`${message.type()}: ${message.text()}`);
  });
  page.on("request", (request) => {
    const elsewhere = !request.url().startsWith(new URL(url).origin) && !request.url().startsWith("data:");
    if (elsewhere) complaints.push(`request: ${request.url()}`);
  });
  await page.goto(url);
  return page;
}

/** Fill in and run, and wait for the end. */
export async function refine(page, { prompt = "Why is the sky blue?", draft, rounds = 3, ends = "done" } = {}) {
  await ready(page);
  await page.getByRole("textbox", { name: "Prompt" }).fill(prompt);
  if (draft !== undefined) {
    await page.getByRole("radio", { name: "me" }).check();
    await page.getByRole("textbox", { name: "Draft" }).fill(draft);
  }
  await page.getByRole("slider").fill(String(rounds));
  await page.getByRole("button", { name: "Run" }).click();
  await page.waitForSelector(`.verdict.${ends}`);
}

export const ready = (page) => page.waitForSelector("#model option", { state: "attached" });
export const show = (page, view) => page.getByRole("radio", { name: view }).check();
export const column = (page, name) => page.getByRole("article", { name, exact: true });
export const textOf = (page, name) => column(page, name).locator(".body").innerText();

/** Nothing of a text has run, and no element of it could. */
export async function harmless(page, where) {
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => setTimeout(done))));
  assert.equal(await page.evaluate(() => window.owned), undefined);
  const found = await page.locator(`${where} :is(.body, .markdown)`).evaluateAll((all) =>
    all.flatMap((one) => [...one.querySelectorAll("*")]).flatMap((one) => [
      ...(/^(script|img|svg|iframe|object|style|link|base|meta|form|input|button|math|details)$/i.test(one.nodeName) ? [one.nodeName] : []),
      ...[...one.attributes].filter(({ name }) => name.startsWith("on") || ["style", "id", "name", "src"].includes(name)).map(({ name }) => name),
    ]),
  );
  assert.deepEqual(found, []);
}
