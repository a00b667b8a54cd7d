// The draft and a round as A and B, in an order drawn for each comparison, and the vote that the choice is.

import { html, useLayoutEffect, useMemo, useRef, useState } from "./vendor/htm-preact.js";
import { Markdown } from "./text.js";
import { nameOf } from "./run.js";

export const NO_CHOICES = { draft: 0, refined: 0, tie: 0, "both bad": 0 };
const VOTES = { draft: "a", refined: "b", tie: "tie", "both bad": "both_bad" };
const CHOICES = ["A is better", "B is better", "Tie", "Both are bad"];

/** The draft of a finished run and the round to compare with it, or null: the answer or, where a judge kept the draft, what it declined. */
export function pairOf(run) {
  if (run.status !== "done") return null;
  const draft = run.rounds.find((one) => one.round === 0);
  const others = run.rounds.filter((one) => one.round > 0 && one.text !== draft?.text);
  const answer = run.refinement?.returned_round;
  const refined = answer ? others.find((one) => one.round === answer) : others.at(-1);
  return draft && refined ? { draft, refined } : null;
}

/** The body of `POST /v1/votes` for a choice, or null: a run from a link is not known to this server by its id. */
export function voteOf(run, pair, what) {
  if (!run.id || run.fromLink) return null;
  return { id: run.id, vote: VOTES[what], a: 0, b: pair.refined.round };
}

const coin = () => crypto.getRandomValues(new Uint8Array(1))[0] % 2 === 0;

/** A dialog over all the rest. `onChoice` gets "draft", "refined", "tie" or "both bad"; `onClose` ends it either way. */
export function Blind({ pair, tally, note, onChoice, onClose }) {
  const [chosen, setChosen] = useState(null);
  const sides = useMemo(() => (coin() ? ["draft", "refined"] : ["refined", "draft"]), [pair]);
  const dialog = useRef(null);
  useLayoutEffect(() => dialog.current.showModal(), []);
  const choose = (number) => {
    if (chosen !== null) return;
    setChosen(number);
    onChoice([...sides, "tie", "both bad"][number]);
  };
  const pressed = (event) => {
    const number = "1234".indexOf(event.key);
    if (number >= 0 && event.key.length === 1 && !event.ctrlKey && !event.metaKey && !event.altKey) choose(number);
  };
  return html`
    <dialog ref=${dialog} class="blind" aria-labelledby="blind" onKeyDown=${pressed} onClose=${onClose}>
      <header>
        <h2 id="blind">Which is better?</h2>
        <button type="button" class="quiet" onClick=${() => dialog.current.close()}>Close</button>
      </header>
      <div class="pair">
        ${sides.map(
          (side, place) => html`
            <section class="round" aria-label=${"AB"[place]}>
              <h3>${"AB"[place]}${chosen !== null && html` <span class="tag">${side === "draft" ? "the draft" : nameOf(pair.refined.round)}</span>`}</h3>
              <${Markdown} text=${pair[side].text} />
            </section>
          `,
        )}
      </div>
      <div class="choices" role="group" aria-label="Your choice">
        ${CHOICES.map(
          (label, number) => html`
            <button
              type="button"
              autofocus=${number === 0}
              aria-pressed=${chosen === number}
              aria-disabled=${chosen !== null}
              onClick=${() => choose(number)}
            >
              <kbd>${number + 1}</kbd> ${label}
            </button>
          `,
        )}
      </div>
      <p class="tally" role="status">${chosen !== null && html`<${Revealed} sides=${sides} pair=${pair} tally=${tally} />`}</p>
      <p class="hint" role="status">${note}</p>
    </dialog>
  `;
}

function Revealed({ sides, pair, tally }) {
  const name = (side) => (side === "draft" ? "the draft" : nameOf(pair.refined.round).toLowerCase());
  const counts = Object.entries(tally).map(([what, count]) => `${what} ${count}`);
  return html`A was ${name(sides[0])}, B was ${name(sides[1])}. So far: ${counts.join(", ")}.`;
}
