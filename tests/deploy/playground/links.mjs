// Links that hold a run: one's own, and what a stranger may have written.

import { strict as assert } from "node:assert";
import { deflateRawSync } from "node:zlib";
import { check, harmless, ready, refine, show, textOf, XSS } from "./browser.mjs";

const { URL: url } = process.env;

check("a link restores form and rounds, without the key", async (open) => {
  const page = await open({ url, permissions: ["clipboard-read", "clipboard-write"] });
  await page.getByLabel("API key").fill("secret-key");
  await page.getByLabel("API key").blur();
  await refine(page, { prompt: "Grüße, 世界 🌍", rounds: 2 });
  await page.getByRole("button", { name: "Copy link" }).click();
  await page.waitForSelector(".taken");
  const link = await page.evaluate(() => navigator.clipboard.readText());
  assert.ok(link.startsWith(`${url}#r=`) && link === page.url());
  const other = await open({ url: link });
  await other.waitForSelector(".verdict.done");
  assert.equal(await other.getByRole("textbox", { name: "Prompt" }).inputValue(), "Grüße, 世界 🌍");
  assert.equal(await other.getByRole("slider").inputValue(), "2");
  assert.equal(await textOf(other, "Round 2"), await textOf(page, "Round 2"));
  assert.equal(await other.getByLabel("API key").inputValue(), "");
  assert.equal(await other.evaluate(() => JSON.stringify({ ...sessionStorage })), "{}");
  assert.equal(await other.getByText("these rounds were not run here").count(), 1);
  await other.getByRole("button", { name: "Compare blind" }).click();
  assert.match(await other.locator("dialog .hint").innerText(), /in this page alone/); // nobody knows such a run by an id
});

const linked = (held) => `${url}#r=${deflateRawSync(typeof held === "string" ? held : JSON.stringify(held)).toString("base64url")}`;

check("a link that a stranger wrote does nothing but show texts", async (open) => {
  const round = { round: 0, role: "<img src=x onerror=owned=1>", model: XSS, text: XSS, usage: "none", latency_ms: "soon", lost: XSS };
  const body = { prompt: "x", 'a=__import__("os"), b': "", rounds: 1 };
  const told = { stop_reason: XSS, returned_round: "1", rounds_requested: {} };
  const page = await open({ url: linked({ form: { prompt: XSS, rounds: 1e9, kind: [] }, run: { body, status: "done", rounds: [round, round], refinement: told } }) });
  await page.waitForSelector(".verdict.done");
  for (const view of ["Text", "Formatted", "Changes"]) {
    await show(page, view);
    await harmless(page, "main");
  }
  await page.getByRole("button", { name: "Copy as Python" }).click();
  assert.doesNotMatch(await page.locator("#taken").inputValue(), /__import__/);
  await ready(page);
  assert.equal(await page.getByRole("slider").inputValue(), "8");
});

check("figures of many digits stay on their lines, on narrow screens too", async (open) => {
  const usage = {
    prompt_tokens: 16_090,
    completion_tokens: 14_220,
    prompt_tokens_details: { cached_tokens: 10_448 },
    completion_tokens_details: { accepted_prediction_tokens: 1_164, rejected_prediction_tokens: 9_905 },
  };
  const judged = { p: null, against: 0, failed: false };
  const round = { role: "follower", model: "m", text: "x", finish_reason: "length", usage, latency_ms: 148_000, edit_ratio: 0.95, judged };
  const run = { body: { prompt: "x" }, status: "done", rounds: [{ role: "client", text: "d" }, round, round], refinement: { returned_round: 2 } };
  for (const width of [1280, 360]) {
    const page = await open({ url: linked({ form: {}, run }), viewport: { width, height: 740 } });
    await page.waitForSelector(".verdict.done");
    const broken = await page.locator(".figures").evaluateAll((all) =>
      all.flatMap((figures) =>
        [...figures.querySelectorAll("dt, dd")].flatMap((one) => {
          const range = document.createRange();
          range.selectNodeContents(one);
          const [line, ...more] = range.getClientRects();
          return more.length || line.right > figures.getBoundingClientRect().right ? [one.innerText] : [];
        }),
      ),
    );
    assert.deepEqual(broken, [], `${width} pixels`);
  }
});

for (const [what, held] of [["is no JSON", "{"], ["unpacks to too much", JSON.stringify("x".repeat(3_000_000))]]) {
  check(`a link that ${what} is said to be broken`, async (open) => {
    const page = await open({ url: linked(held) });
    assert.match(await page.getByRole("alert").innerText(), /^This link cannot be read: /);
  });
}
