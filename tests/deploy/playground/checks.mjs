// Drives the playground as a user does: node checks.mjs prints a line of JSON for each check, {name, error}.
// The environment says where: URL, JUDGED (its model has a judge), KEYED (asks for a key), PREFIXED (below a path), CHROMIUM, OUT (a folder for what is copied).

import { strict as assert } from "node:assert";
import { readFileSync, writeFileSync } from "node:fs";
import { check, column, harmless, played, ready, refine, show, textOf, XSS } from "./browser.mjs";
import "./links.mjs";

const { URL: url, JUDGED: judged, KEYED: keyed, PREFIXED: prefixed, CHROMIUM: chromium, OUT: out } = process.env;
const AXE = readFileSync(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");

check("three rounds fill a column each, with figures and why it ended", async (open) => {
  const page = await open({ url });
  await refine(page);
  assert.deepEqual(await page.locator("article h3").allInnerTexts(), ["Draft", "Round 1", "Round 2", "Round 3"]);
  assert.equal(await textOf(page, "Round 2"), "better better draft of: Why is the sky blue?");
  assert.equal(await page.locator(".verdict").innerText(), "Ended because all 3 rounds were done. Round 3 is the answer.");
  assert.match(await column(page, "Round 3").innerText(), /answer/);
  const figures = await column(page, "Round 1").locator(".figures").innerText();
  for (const name of ["seconds", "tokens", "prompt", "cached", "guesses", "edited"]) assert.match(figures, new RegExp(name));
  assert.match(figures, /tokens\s+8\b/); // the fake's token is a word
});

check("changes are told by line and not by colour alone, against any other round", async (open) => {
  const page = await open({ url });
  await refine(page, { prompt: "long", rounds: 2 });
  const texts = { Draft: await textOf(page, "Draft"), "Round 1": await textOf(page, "Round 1"), "Round 2": await textOf(page, "Round 2") };
  await show(page, "Changes");
  for (const [against, name, base] of [["before", "Round 2", "Round 1"], ["0", "Round 2", "Draft"], ["2", "Draft", "Round 2"]]) {
    await page.locator(".inline select").selectOption(against);
    const body = column(page, name).locator(".plain");
    const without = (tag) => body.evaluate((node, gone) => [...node.childNodes].filter((one) => one.nodeName !== gone).map((one) => one.textContent).join(""), tag);
    assert.equal(await without("INS"), texts[base]);
    assert.equal(await without("DEL"), texts[name]);
    assert.ok((await body.locator("ins").count()) > 0);
  }
  const line = (tag) => page.locator(`article ${tag}`).first().evaluate((node) => getComputedStyle(node).textDecorationLine);
  assert.equal(await line("ins"), "underline");
  assert.equal(await line("del"), "line-through");
});

check("a draft full of scripts does nothing in any view", async (open) => {
  const page = await open({ url });
  await refine(page, { draft: XSS, rounds: 1 });
  for (const view of ["Text", "Formatted", "Changes"]) {
    await show(page, view);
    await harmless(page, "main");
  }
  await page.getByRole("button", { name: "Compare blind" }).click();
  await harmless(page, "dialog");
  assert.deepEqual(await page.locator("dialog a").evaluateAll((all) => [...new Set(all.map((one) => one.getAttribute("href")))]), [
    null,
    "https://good.example/page",
  ]);
});

check("a sign of multiplication is no emphasis", async (open) => {
  const page = await open({ url });
  const sums = "4*60=240 jellyfish, 5*240=1200, 2*(3+1)*2=16, 2**3**2=512, x*y+z*w";
  await refine(page, { draft: `${sums}. *Really*, **so**, 重点**重点**内容.`, rounds: 1 });
  await show(page, "Formatted");
  const body = column(page, "Draft").locator(".markdown");
  assert.equal(await body.innerText(), `${sums}. Really, so, 重点重点内容.`);
  assert.deepEqual(await body.locator("em, strong").allInnerTexts(), ["Really", "so", "重点"]);
});

check("all of it works by keyboard", async (open) => {
  const page = await open({ url });
  await ready(page);
  const tabTo = async (name) => {
    for (let steps = 0; steps < 40; steps++) {
      await page.keyboard.press("Tab");
      const focused = page.locator(":focus");
      const outline = await focused.evaluate((node) => [node, node.nextElementSibling].some((one) => one && getComputedStyle(one).outlineStyle !== "none"));
      assert.ok(outline, "the focus is to be seen");
      if (await focused.evaluate((node, named) => (node.getAttribute("aria-label") ?? node.labels?.[0]?.innerText ?? node.innerText).startsWith(named), name)) return;
    }
    throw new Error(`no way to ${name}`);
  };
  await tabTo("Prompt");
  await page.keyboard.type("keys alone");
  await tabTo("Rounds");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Control+Enter");
  await page.waitForSelector(".verdict.done");
  assert.equal(await page.locator("article").count(), 3);
  await tabTo("Text");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  assert.ok((await page.locator("ins").count()) > 1);
  await tabTo("Compare blind");
  await page.keyboard.press("Enter");
  await page.waitForSelector("dialog[open]");
  await page.keyboard.press("3");
  assert.match(await page.locator(".tally").innerText(), /A was .*So far: draft 0, refined 0, tie 1, both bad 0\./);
  await page.keyboard.press("Escape");
  await page.waitForSelector("dialog", { state: "detached" });
});

check("blind means that no round is shown before the choice", async (open) => {
  const page = await open({ url });
  await ready(page);
  await page.getByRole("checkbox").check();
  await page.getByRole("textbox", { name: "Prompt" }).fill("Why is the sky blue?");
  await page.getByRole("button", { name: "Run" }).click();
  await page.waitForSelector("dialog");
  assert.equal(await page.locator("article").count(), 0);
  assert.doesNotMatch(await page.locator("dialog").innerText(), /Round|draft\b(?! of)/);
  const sides = await page.locator("dialog section").allInnerTexts();
  await page.keyboard.press("1");
  const first = sides[0].includes("better") ? "refined" : "draft";
  assert.match(await page.locator(".tally").innerText(), new RegExp(`A was (the draft|round 1).*${first} 1`));
  await page.keyboard.press("2");
  assert.match(await page.locator(".tally").innerText(), new RegExp(`${first} 1`)); // a choice is made once
  await page.getByRole("button", { name: "Close" }).click();
  await page.waitForSelector("article");
  assert.equal(await page.locator("article").count(), 2);
});

check("a blind choice is a vote, which the server keeps once it is made", async (open) => {
  const page = await open({ url: keyed });
  await page.getByLabel("API key").fill("right");
  await page.keyboard.press("Tab");
  await refine(page, { rounds: 2 });
  const votes = [];
  page.on("request", (request) => request.url().endsWith("/v1/votes") && votes.push(request.postDataJSON()));
  await page.getByRole("button", { name: "Compare blind" }).click();
  assert.match(await page.locator("dialog .hint").innerText(), /keeps which one you choose/);
  const drafted = (await page.locator("dialog section").first().innerText()).includes("better") ? "2" : "1";
  await page.keyboard.press(drafted);
  await page.getByText("The server has kept your vote.").waitFor();
  await page.keyboard.press("4"); // a choice is made once
  assert.deepEqual(votes.map(({ id, ...rest }) => [id.startsWith("refine-"), rest]), [[true, { vote: "a", a: 0, b: 2 }]]);
  const answer = await fetch(`${keyed}v1/shadow/fake`, { headers: { Authorization: "Bearer right" } });
  const { n, losses } = (await answer.json()).by.source.vote;
  assert.deepEqual([n, losses], [1, 1]);
  await page.keyboard.press("Escape");
  await page.route("**/v1/votes", (route) => route.fulfill({ status: 400, json: { error: { message: "too long ago" } } }));
  await page.getByRole("button", { name: "Compare blind" }).click();
  await page.keyboard.press("3");
  await page.getByText("Your vote is not kept: too long ago").waitFor();
});

check("where the judge kept the draft, the round that it declined is compared with it", async (open) => {
  const page = await open({ url: judged });
  await ready(page);
  await page.getByRole("radio", { name: "what house chooses" }).check();
  await refine(page, { draft: "a better draft", rounds: 2 });
  assert.equal(await page.locator(".verdict").innerText(), "Ended because all 2 rounds were done. The draft was chosen by the judge house.");
  const [vote] = await Promise.all([page.waitForRequest("**/v1/votes"), compared(page)]);
  await page.getByText("The server has kept your vote.").waitFor();
  const { id, ...rest } = vote.postDataJSON();
  assert.deepEqual(rest, { vote: "b", a: 0, b: 2 });
  assert.match(await page.locator(".tally").innerText(), /B was (the draft|round 2)\. So far: draft 0, refined 1, tie 0, both bad 0\./);

  /** Choose the refined text. */
  async function compared() {
    await page.getByRole("button", { name: "Compare blind" }).click();
    const first = await page.locator("dialog section .markdown").first().innerText();
    await page.keyboard.press(first === "a better draft" ? "2" : "1");
  }
});

check("a draft that stayed as it was is compared with nothing", async (open) => {
  const page = await open({ url });
  await refine(page, { prompt: "lose the code", draft: "So:\n```python\nprint(1)\n```\n", rounds: 1 });
  assert.equal(await page.getByRole("button", { name: "Copy link" }).count(), 1);
  assert.equal(await page.getByRole("button", { name: "Compare blind" }).count(), 0);
});

check("nothing is wider than a screen of 360 pixels", async (open) => {
  const page = await open({ url, viewport: { width: 360, height: 740 } });
  const fits = async () => assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
  await ready(page);
  await fits();
  await page.getByText("What this model is").click();
  const wide = `| ${"column | ".repeat(20)}\n|${"---|".repeat(20)}\n\n${"unbroken".repeat(40)}\n\n    ${"code ".repeat(60)}`;
  await refine(page, { draft: wide, rounds: 1 });
  for (const view of ["Text", "Formatted", "Changes"]) {
    await show(page, view);
    await fits();
  }
  await page.getByRole("button", { name: "Copy as curl" }).click();
  await page.waitForSelector(".taken");
  await fits();
  await page.getByRole("button", { name: "Compare blind" }).click();
  await page.waitForFunction(() => [...document.querySelectorAll("dialog .markdown")].every((one) => one.firstChild));
  await fits();
  assert.ok(await page.locator("dialog").evaluate((node) => node.scrollWidth <= node.clientWidth));
  const rows = await page.locator(".choices button").evaluateAll((all) => new Set(all.map((one) => one.offsetTop)).size);
  assert.equal(rows, 2); // or what comes of a choice is far below it
});

for (const colorScheme of ["light", "dark"]) {
  check(`axe finds nothing in ${colorScheme}`, async (open) => {
    const page = await open({ url, colorScheme, bypassCSP: true }); // for axe alone, which is put in as a script
    await ready(page);
    await page.addScriptTag({ content: AXE });
    const clean = async (state) => {
      const { violations } = await page.evaluate(() => globalThis.axe.run());
      const found = violations.map((one) => `${one.id}: ${one.nodes.map((node) => `${node.html} ${node.failureSummary}`).join(", ")}`);
      assert.deepEqual(found, [], state);
    };
    await clean("empty");
    await page.getByRole("button", { name: "Run" }).click();
    await clean("a value is missing");
    await page.getByText("What this model is").click();
    await refine(page, { draft: XSS, rounds: 2 });
    for (const view of ["Text", "Formatted", "Changes"]) {
      await show(page, view);
      await clean(view);
    }
    await page.getByRole("button", { name: "Copy link" }).click();
    await page.waitForSelector(".taken");
    await page.getByRole("button", { name: "Compare blind" }).click();
    await clean("blind");
    await page.keyboard.press("4");
    await clean("revealed");
  });
}

check("three rounds of 300 tokens are drawn without a frame over 100 ms", async (open) => {
  const page = await open({ url });
  await ready(page);
  const browser = page.context().browser();
  await browser.startTracing(page, { categories: ["devtools.timeline", "disabled-by-default-devtools.timeline"] });
  await refine(page, { prompt: "long" });
  const frames = framesOf(JSON.parse((await browser.stopTracing()).toString()).traceEvents);
  const words = await textOf(page, "Round 3");
  assert.ok(words.split(/\s+/).length >= 300);
  const longest = (clock) => Math.max(...frames.slice(1).map((frame, n) => frame[clock] - frames[n][clock])) / 1000;
  const told = { frames: frames.length, worked_ms: longest("tts"), apart_ms: longest("ts") };
  writeFileSync(`${out}/frames.json`, JSON.stringify(told));
  assert.ok(frames.length > 50 && told.worked_ms <= 100, JSON.stringify(told));
});

/** The page's frames in order, with the main thread's own clock (tts), which stands still while others have the processor. */
function framesOf(events) {
  const frames = events.filter((event) => event.name === "FireAnimationFrame" && event.tts);
  const of = (frame) => frames.filter((other) => other.pid === frame.pid && other.tid === frame.tid);
  const drawn = frames.map(of).reduce((most, one) => (one.length > most.length ? one : most), []);
  return drawn.sort((one, other) => one.ts - other.ts);
}

check("Stop keeps what was finished", async (open) => {
  const page = await open({ url });
  await ready(page);
  await page.getByRole("textbox", { name: "Prompt" }).fill("long");
  await page.getByRole("slider").fill("8");
  await page.getByRole("button", { name: "Run" }).click();
  await column(page, "Round 1").locator(".caret").waitFor();
  await page.getByRole("button", { name: "Stop" }).click();
  await page.waitForSelector(".verdict.stopped");
  assert.equal(await page.locator(".caret").count(), 0);
  assert.match(await page.locator("article").last().innerText(), /not finished/);
  assert.ok(await page.getByRole("button", { name: "Run" }).isEnabled());
});

check("a round that lost something says what", async (open) => {
  const page = await open({ url });
  await refine(page, { prompt: "lose the code", draft: "So:\n```python\nprint(1)\n```\n", rounds: 1 });
  assert.match(await column(page, "Round 1").innerText(), /This round lost a code block, so it left the text before it/);
});

check("what a judge says stands below each round, and its choice is the answer", async (open) => {
  const page = await open({ url: judged, viewport: { width: 360, height: 740 }, bypassCSP: true }); // for axe alone
  await ready(page);
  await page.getByRole("radio", { name: "what house chooses" }).check();
  await refine(page, { rounds: 2 });
  assert.equal(await page.locator(".verdict").innerText(), "Ended because all 2 rounds were done. Round 1 was chosen by the judge house.");
  assert.match(await column(page, "Round 1").innerText(), /answer/);
  const figures = (name) => column(page, name).locator(".figures").innerText();
  assert.match(await figures("Round 1"), /judge's p\s+0\.73\s+against\s+draft/);
  assert.match(await figures("Round 2"), /judge's p\s+0\.05\s+against\s+round 1/);
  assert.doesNotMatch(await figures("Draft"), /judge/);
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
  await page.addScriptTag({ content: AXE });
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  assert.deepEqual(violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html)}`), []);
  await page.getByRole("button", { name: "Copy as Python" }).click();
  await page.waitForSelector(".taken");
  assert.match(await page.locator("#taken").inputValue(), /select="judge",/);
  await page.getByRole("button", { name: "Copy link" }).click();
  await page.waitForFunction(() => document.querySelector("#taken").value.includes("#r="));
  const other = await open({ url: await page.locator("#taken").inputValue() });
  await other.waitForSelector(".verdict.done");
  assert.match(await other.getByRole("article", { name: "Round 2" }).innerText(), /0\.05\s+against\s+round 1/);
  assert.match(await other.locator(".verdict").innerText(), /chosen by the judge house/);
});

check("a model without a judge is not asked to choose", async (open) => {
  const page = await open({ url });
  await ready(page);
  assert.equal(await page.getByText("The answer is").count(), 0);
});

check("a bad value is named where it stands, by the page or by the server", async (open) => {
  const page = await open({ url });
  await ready(page);
  await page.getByRole("textbox", { name: "Prompt" }).fill("x");
  await page.getByLabel("Temperature").fill("hot");
  await page.keyboard.press("Control+Enter");
  assert.match(await page.locator(".problem").innerText(), /from 0 to 2/);
  assert.equal(await page.getByLabel("Temperature").getAttribute("aria-invalid"), "true");
  assert.ok(await page.getByLabel("Temperature").evaluate((node) => node === document.activeElement));
  await page.getByLabel("Temperature").fill("1");
  await page.getByLabel("Token budget").fill("1");
  await page.keyboard.press("Control+Enter");
  await page.waitForSelector(".verdict.failed");
  await page.getByRole("radio", { name: "a conversation" }).check();
  await page.getByRole("textbox", { name: "Conversation" }).fill("[{]");
  await page.keyboard.press("Control+Enter");
  assert.match(await page.locator(".problem").innerText(), /not JSON/);
});

check("a conversation is sent as it is written", async (open) => {
  const page = await open({ url });
  await ready(page);
  await page.getByRole("radio", { name: "a conversation" }).check();
  await page.getByRole("textbox", { name: "Conversation" }).fill('[{"role": "system", "content": "be brief"}, {"role": "user", "content": "last words"}]');
  await page.keyboard.press("Control+Enter");
  await page.waitForSelector(".verdict.done");
  assert.equal(await textOf(page, "Draft"), "draft of: last words");
});

check("a server with keys is asked with the one typed in, which stays in the tab", async (open) => {
  const page = await open({ url: keyed });
  assert.match(await page.getByRole("alert").innerText(), /asks for an API key/);
  await page.getByLabel("API key").fill("right");
  await page.keyboard.press("Tab");
  await refine(page, { rounds: 1 });
  assert.deepEqual(await page.evaluate(() => [{ ...sessionStorage }, { ...localStorage }, document.cookie]), [{ "slhf-api-key": "right" }, {}, ""]);
  await page.reload();
  await ready(page);
});

check("it works below a prefix", async (open) => {
  const page = await open({ url: prefixed });
  await refine(page, { rounds: 1 });
  assert.equal(await page.locator("article").count(), 2);
});

check("what is copied is the same request", async (open) => {
  const page = await open({ url, acceptDownloads: true });
  await ready(page);
  await page.getByRole("textbox", { name: "Instruction" }).fill(`don't "shout" \\ $HOME`);
  await page.getByLabel("Temperature").fill("0.5");
  await page.getByLabel("Seed").fill("7");
  await refine(page, { prompt: "It's 100 %\nof 世界", draft: 'a "draft"\n', rounds: 2 });
  for (const [button, file] of [["Copy as curl", "request.sh"], ["Copy as Python", "request.py"]]) {
    await page.getByRole("button", { name: button }).click();
    await page.waitForFunction((word) => document.querySelector("#taken")?.value.startsWith(word), file.endsWith("sh") ? "curl" : "from");
    writeFileSync(`${out}/${file}`, await page.locator("#taken").inputValue());
  }
  const download = page.waitForEvent("download");
  await page.getByRole("link", { name: "Download 1 as JSON lines" }).click();
  await (await download).saveAs(`${out}/drafts.jsonl`);
});

for await (const result of played(chromium)) process.stdout.write(`${JSON.stringify(result)}\n`);
