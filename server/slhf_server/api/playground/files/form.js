// What a request is made of. Every change goes up by `change(name, value)`; nothing is kept here.

import { html } from "./vendor/htm-preact.js";
import { Card } from "./card.js";

export function Form({ form, change, problem, models, running, onRun, onStop, blind, onBlind }) {
  const model = models.find((one) => one.id === form.model);
  const most = model?.limits?.rounds ?? 8;
  const mine = form.drafter === "me" || model?.drafts === false;
  const set = (name) => (event) => change(name, event.target.value);
  const submit = (event) => {
    event.preventDefault();
    onRun();
  };
  const field = (name) => ({
    id: name,
    name,
    value: form[name],
    onInput: set(name),
    "aria-invalid": problem?.field === name,
    "aria-describedby": problem?.field === name ? "problem" : undefined,
  });
  const wrong = (name) => problem?.field === name && html`<p class="problem" id="problem">${problem.message}</p>`;
  return html`
    <form onSubmit=${submit} aria-label="Request">
      <div class="field">
        <label for="model">Model</label>
        <select ...${field("model")} onChange=${set("model")}>
          ${models.map((one) => html`<option value=${one.id}>${one.id}</option>`)}
        </select>
        ${model && html`<${Card} model=${model} />`}
      </div>
      <fieldset class="field">
        <legend>Ask with</legend>
        <${Choice} name="kind" value=${form.kind} change=${change} options=${{ prompt: "a prompt", messages: "a conversation" }} />
        ${form.kind === "prompt"
          ? html`<textarea rows="3" aria-label="Prompt" placeholder="Why is the sky blue?" ...${field("prompt")}></textarea>`
          : html`<textarea
              rows="6"
              class="code"
              aria-label="Conversation, as a JSON list of messages"
              placeholder='[{"role": "user", "content": "Why is the sky blue?"}]'
              spellcheck=${false}
              ...${field("messages")}
            ></textarea>`}
        ${wrong(form.kind)}
      </fieldset>
      <fieldset class="field">
        <legend>The draft comes from</legend>
        ${model?.drafts === false
          ? html`<p class="hint">This model has no Leader: paste an answer to improve.</p>`
          : html`<${Choice} name="drafter" value=${form.drafter} change=${change} options=${{ model: "the Leader", me: "me" }} />`}
        ${mine &&
        html`<textarea rows="5" aria-label="Draft" placeholder="Paste an answer from anywhere." ...${field("draft")}></textarea>`}
      </fieldset>
      <div class="field">
        <label for="instruction">Instruction <span class="hint">optional</span></label>
        <input type="text" placeholder="Make it shorter." autocomplete="off" ...${field("instruction")} />
      </div>
      <div class="field">
        <label for="rounds">Rounds <output for="rounds">${form.rounds}</output></label>
        <input
          type="range"
          id="rounds"
          min="0"
          max=${most}
          value=${form.rounds}
          onInput=${(event) => change("rounds", Number(event.target.value))}
        />
        <span class="ends" aria-hidden="true"><span>0</span><span>${most}</span></span>
      </div>
      ${model?.judge &&
      html`
        <fieldset class="field">
          <legend>The answer is</legend>
          <${Choice}
            name="select"
            value=${form.select}
            change=${change}
            options=${{ "": "as the model is set", last: "the last round", judge: `what ${model.judge.name} chooses` }}
          />
        </fieldset>
      `}
      <div class="three">
        ${[
          ["temperature", "Temperature", "decimal"],
          ["seed", "Seed", "numeric"],
          ["budget", "Token budget", "numeric"],
        ].map(
          ([name, label, mode]) => html`
            <div class="field">
              <label for=${name}>${label}</label>
              <input type="text" inputmode=${mode} placeholder="default" autocomplete="off" ...${field(name)} />
            </div>
          `,
        )}
      </div>
      ${wrong("temperature")}${wrong("seed")}${wrong("budget")}
      <label class="check">
        <input type="checkbox" checked=${blind} onChange=${(event) => onBlind(event.target.checked)} />
        <span>Compare blind before I see the rounds</span>
      </label>
      <div class="run">
        <button type="submit" class="primary" disabled=${running || !models.length}>Run <kbd>Ctrl Enter</kbd></button>
        <button type="button" disabled=${!running} onClick=${onStop}>Stop</button>
      </div>
    </form>
  `;
}

function Choice({ name, value, options, change }) {
  return html`
    <div class="segments">
      ${Object.entries(options).map(
        ([option, label]) => html`
          <label>
            <input type="radio" name=${name} value=${option} checked=${value === option} onChange=${() => change(name, option)} />
            <span>${label}</span>
          </label>
        `,
      )}
    </div>
  `;
}
