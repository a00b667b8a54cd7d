// The rounds side by side: a column each, its figures below it, and above them why it all ended.

import { html } from "./vendor/htm-preact.js";
import { Changes, Markdown } from "./text.js";
import { nameOf, verdict } from "./run.js";

const VIEWS = { text: "Text", markdown: "Formatted", changes: "Changes" };
const PARTS = {
  code: "a code block",
  language: "its language",
  numbers: "a number",
  urls: "an address",
  quotes: "a quotation",
  lists: "items of a list",
  json: "its JSON",
  instructions: "what the prompt asks for",
};

export function Rounds({ run, view, base, onView, onBase }) {
  const answer = run.refinement?.returned_round;
  return html`
    <div class="bar">
      <fieldset class="segments">
        <legend class="unseen">How to show the texts</legend>
        ${Object.entries(VIEWS).map(
          ([name, label]) => html`
            <label>
              <input type="radio" name="view" value=${name} checked=${view === name} onChange=${() => onView(name)} />
              <span>${label}</span>
            </label>
          `,
        )}
      </fieldset>
      ${view === "changes" &&
      html`
        <label class="inline">
          <span>against</span>
          <select value=${base} onChange=${(event) => onBase(event.target.value)}>
            <option value="before">the round before</option>
            ${run.rounds.map((one) => html`<option value=${one.round}>${nameOf(one.round).toLowerCase()}</option>`)}
          </select>
        </label>
        <span class="legend"><ins>added</ins> <del>removed</del></span>
      `}
    </div>
    <p class=${`verdict ${run.status}`}>${run.status === "running" ? "Running" : verdict(run)}</p>
    <div class="rounds">
      ${run.rounds.map(
        (round, place) => html`
          <${Column}
            key=${round.round}
            round=${round}
            base=${baseOf(run, base, place)}
            view=${view}
            chosen=${run.status === "done" && round.round === answer}
          />
        `,
      )}
    </div>
  `;
}

/** The round that this one is compared with, or none. */
function baseOf(run, base, place) {
  const other = base === "before" ? run.rounds[place - 1] : run.rounds.find((one) => String(one.round) === String(base));
  return other && other !== run.rounds[place] && other.done ? other : null;
}

function Column({ round, base, view, chosen }) {
  const writing = !round.done && !round.cut;
  return html`
    <article class=${chosen ? "round chosen" : "round"} aria-busy=${writing} aria-label=${nameOf(round.round)}>
      <header>
        <h3>${nameOf(round.round)}</h3>
        ${chosen && html`<span class="tag">answer</span>`} ${round.cut && html`<span class="tag cut">not finished</span>`}
        <span class="who">${round.role === "client" ? "yours" : `${round.role}, ${round.model}`}</span>
      </header>
      <div class="body">${body(round, base, view)}${writing && html`<span class="caret"></span>`}</div>
      ${round.lost && html`<p class="lost">This round lost ${PARTS[round.lost] ?? round.lost}, so it left the text before it as it was.</p>`}
      ${round.done && round.role !== "client" && html`<${Figures} round=${round} />`}
    </article>
  `;
}

function body(round, base, view) {
  if (round.done && view === "markdown") return html`<${Markdown} text=${round.text} />`;
  if (round.done && view === "changes" && base) {
    return html`<${Changes} from=${base.text} to=${round.text} name=${nameOf(base.round)} />`;
  }
  return html`<p class="plain">${round.text}</p>`;
}

/** What the judge said of a round: how probably it is better than the best text before it, and which one that was. */
function said({ p, against, failed }) {
  const told = p === null ? (failed ? "it failed" : "no verdict") : p.toFixed(2);
  return [["judge's p", told], ["against", nameOf(against).toLowerCase()]];
}

function Figures({ round }) {
  const { usage, latency_ms: ms, edit_ratio: edited, finish_reason: reason } = round;
  const { accepted_prediction_tokens: right, rejected_prediction_tokens: wrong } = usage.completion_tokens_details;
  const rows = [
    ["seconds", (ms / 1000).toFixed(ms < 9_950 ? 1 : 0)],
    ["tokens", usage.completion_tokens],
    ["prompt", usage.prompt_tokens],
    ["cached", usage.prompt_tokens_details.cached_tokens],
    ["guesses", right + wrong ? `${right} of ${right + wrong}` : "none"],
  ];
  if (edited !== null && edited !== undefined) rows.push(["edited", `${Math.round(edited * 100)} %`]);
  if (round.judged) rows.push(...said(round.judged));
  if (reason === "length") rows.push(["ended", "out of tokens"]);
  return html`
    <dl class="figures">
      ${rows.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}
    </dl>
  `;
}
