// The bundle's card: what is served, how it was trained and what was measured.

import { html } from "./vendor/htm-preact.js";

const NAMES = { own_answers: "own answers", base_model: "base model" };

export function Card({ model }) {
  const { limits, judge, max_model_len: context } = model;
  const facts = { ...model.card, context: context && `${context.toLocaleString("en")} tokens` };
  if (judge) facts.judge = judge.kind === "engine" ? `${judge.name}: the served weights themselves` : judge.name;
  if (limits) facts.limits = `${limits.rounds} rounds, ${limits.max_total_tokens.toLocaleString("en")} tokens`;
  return html`
    <details class="card">
      <summary>What this model is</summary>
      <${Facts} facts=${plainOf(facts)} />
      ${Object.entries(facts).filter(([, value]) => isNested(value) && !isEmpty(value)).map(
        ([name, value]) => html`
          <details>
            <summary>${name}</summary>
            <${Facts} facts=${value} />
          </details>
        `,
      )}
    </details>
  `;
}

/** What is said in one line; a bundle's training and evaluation are longer, and folded. */
const plainOf = (facts) => Object.fromEntries(Object.entries(facts).filter(([, value]) => !isNested(value)));

/** Names and values, at whatever depth a bundle's author put them; what is empty is left out. */
function Facts({ facts }) {
  const rows = Object.entries(facts).filter(([, value]) => !isEmpty(value));
  return html`
    <dl>
      ${rows.map(
        ([name, value]) => html`
          <div>
            <dt>${NAMES[name] ?? name.replaceAll("_", " ")}</dt>
            <dd>${isNested(value) ? html`<${Facts} facts=${value} />` : shown(value)}</dd>
          </div>
        `,
      )}
    </dl>
  `;
}

const isNested = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const isEmpty = (value) =>
  value === null || value === undefined || value === "" || (typeof value === "object" && !Object.keys(value).length);
const shown = (value) => (Array.isArray(value) ? value.map((one) => (isNested(one) ? JSON.stringify(one) : one)).join(", ") : String(value));
