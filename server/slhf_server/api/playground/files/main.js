// The page: what is in the form, what runs, and where both may be taken to.

import { html, render, useCallback, useEffect, useLayoutEffect, useRef, useState } from "./vendor/htm-preact.js";
import { Blind, NO_CHOICES, pairOf, voteOf } from "./blind.js";
import { Form } from "./form.js";
import { BadField, bodyOf, curlOf, EMPTY, lineOf, pythonOf } from "./request.js";
import { Rounds } from "./rounds.js";
import { idle, nameOf, play, verdict, wordsOf } from "./run.js";
import { fragmentOf, restored } from "./share.js";
import { cast, served } from "./stream.js";

const KEY = "slhf-api-key";
const COUNTED_HERE = "Choices are counted in this page alone. Nothing is sent or kept.";
const TO_BE_KEPT = "The server keeps which one you choose, and the texts only if its operator lets it.";
const KEPT = "The server has kept your vote.";
const AGAIN_MS = 3000;

const address = () => location.origin + location.pathname;

/** The served models, asked for again for as long as the server says that it is loading. */
function useModels(key) {
  const [models, setModels] = useState({ list: [], problem: "" });
  useEffect(() => {
    const gone = new AbortController();
    let timer;
    const ask = async () => {
      try {
        setModels({ list: await served(key, gone.signal), problem: "" });
      } catch (error) {
        if (gone.signal.aborted) return;
        const loading = error.status === 503;
        if (loading) timer = setTimeout(ask, AGAIN_MS);
        setModels({ list: [], problem: loading ? "The model is being loaded." : problemOf(error) });
      }
    };
    ask();
    return () => {
      clearTimeout(timer);
      gone.abort();
    };
  }, [key]);
  return models;
}

function problemOf(error) {
  if (error.status === 401) return "This server asks for an API key.";
  return error.status ? error.message : "The server could not be reached.";
}

/** What a screen reader is told of a run: each round once it is finished, and the end. */
function newsOf(run) {
  if (run.status === "idle" || run.fromLink) return "";
  if (run.status !== "running") return verdict(run);
  const finished = run.rounds.filter((round) => round.done && round.role !== "client");
  const last = finished.at(-1);
  return last ? `${nameOf(last.round)} finished.` : "Running.";
}

function App() {
  const [key, setKey] = useState(sessionStorage.getItem(KEY) ?? "");
  const [form, setForm] = useState(EMPTY);
  const [run, setRun] = useState(idle);
  const [problem, setProblem] = useState(null);
  const [view, setView] = useState("text");
  const [base, setBase] = useState("before");
  const [blindFirst, setBlindFirst] = useState(false);
  const [comparing, setComparing] = useState(null);
  const [hidden, setHidden] = useState(false);
  const [tally, setTally] = useState(NO_CHOICES);
  const [note, setNote] = useState(null);
  const [runs, setRuns] = useState([]);
  const [taken, setTaken] = useState(null);
  const stop = useRef(null);
  const models = useModels(key);
  const running = run.status === "running";

  const change = useCallback((name, value) => {
    setForm((old) => ({ ...old, [name]: value }));
    setProblem(null);
  }, []);

  useEffect(() => {
    const first = models.list[0];
    if (!first || models.list.some((one) => one.id === form.model)) return;
    setForm((old) => ({ ...old, model: first.id, rounds: old === EMPTY ? (first.rounds ?? 1) : old.rounds }));
  }, [models.list, form.model]);

  useEffect(() => {
    const model = models.list.find((one) => one.id === form.model);
    if (!model) return;
    if (model.drafts === false && form.drafter !== "me") change("drafter", "me");
    if (!model.judge && form.select) change("select", "");
    if (model.limits && form.rounds > model.limits.rounds) change("rounds", model.limits.rounds);
  }, [models.list, form.model, form.drafter, form.rounds, form.select]);

  useEffect(() => {
    const open = async () => {
      try {
        const found = await restored(location.hash);
        if (!found) return;
        stop.current?.abort();
        setForm(found.form);
        setRun(found.run);
      } catch (error) {
        setProblem({ message: `This link cannot be read: ${error.message}` });
      }
    };
    open();
    addEventListener("hashchange", open);
    return () => removeEventListener("hashchange", open);
  }, []);

  const start = useCallback(async () => {
    if (stop.current) return;
    let body;
    try {
      body = bodyOf(form);
    } catch (error) {
      if (!(error instanceof BadField)) throw error;
      setProblem(error);
      document.getElementById(error.field)?.focus();
      return;
    }
    setProblem(null);
    setTaken(null);
    setHidden(blindFirst);
    history.replaceState(null, "", location.pathname + location.search); // the link is of another run from here on
    stop.current = new AbortController();
    const last = await play(body, key, stop.current.signal, setRun);
    stop.current = null;
    if (last.status === "done") setRuns((old) => [...old, { body }]);
    if (blindFirst && pairOf(last)) setComparing(pairOf(last));
    else setHidden(false);
  }, [form, key, blindFirst]);

  useLayoutEffect(() => {
    const pressed = (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.isComposing || comparing) return;
      event.preventDefault();
      start();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, [start, comparing]);

  const typed = (event) => {
    const value = event.target.value.trim();
    sessionStorage.setItem(KEY, value);
    setKey(value);
  };
  const choose = (what) => {
    setTally((old) => ({ ...old, [what]: old[what] + 1 }));
    setRuns((old) => old.map((one) => (one.body === run.body ? { ...one, choice: what } : one)));
    const vote = voteOf(run, comparing, what);
    if (vote) cast(vote, key).then(() => setNote(KEPT), (error) => setNote(`Your vote is not kept: ${wordsOf(error)}`));
  };
  const closed = () => {
    setNote(null);
    setComparing(null);
    setHidden(false);
  };
  const take = async (what) => {
    let text;
    if (what === "link") {
      const fragment = await fragmentOf(form, run);
      history.replaceState(null, "", fragment);
      text = address() + fragment;
    } else {
      text = (what === "curl" ? curlOf : pythonOf)(run.body, address(), Boolean(key));
    }
    const copied = await (navigator.clipboard?.writeText(text) ?? Promise.reject()).then(() => true, () => false);
    setTaken({ what, text, copied });
  };
  const done = !running && run.body && run.rounds.length > 0;
  const pair = done ? pairOf(run) : null;

  return html`
    <header class="top">
      <h1>slhf <span>playground</span></h1>
      <p>This model rewrites answers. It does not check facts.</p>
      <label class="key">
        <span>API key</span>
        <input
          type="password"
          autocomplete="off"
          spellcheck=${false}
          placeholder="none"
          value=${key}
          onChange=${typed}
          title="Kept in this tab until it is closed"
        />
      </label>
    </header>
    <div class="page">
      <aside>
        ${models.problem && html`<p class="notice" role="alert">${models.problem}</p>`}
        ${problem && !problem.field && html`<p class="notice" role="alert">${problem.message}</p>`}
        <${Form}
          form=${form}
          change=${change}
          problem=${problem}
          models=${models.list}
          running=${running}
          onRun=${start}
          onStop=${() => stop.current?.abort()}
          blind=${blindFirst}
          onBlind=${setBlindFirst}
        />
      </aside>
      <main>
        <h2 class="unseen">Rounds</h2>
        <p class="unseen" role="status">${newsOf(run)}</p>
        ${run.fromLink && html`<p class="notice">From a link: these rounds were not run here.</p>`}
        ${run.status === "idle" || (hidden && running)
          ? html`<${Empty} running=${running} rounds=${run.rounds} />`
          : !hidden && html`<${Rounds} run=${run} view=${view} base=${base} onView=${setView} onBase=${setBase} />`}
        ${done && !hidden && html`
          <div class="take">
            ${pair && html`<button type="button" onClick=${() => setComparing(pair)}>Compare blind</button>`}
            <button type="button" onClick=${() => take("link")}>Copy link</button>
            <button type="button" onClick=${() => take("curl")}>Copy as curl</button>
            <button type="button" onClick=${() => take("Python")}>Copy as Python</button>
            ${runs.length > 0 && html`<${Download} runs=${runs} />`}
          </div>
        `}
        ${taken && html`<${Taken} ...${taken} />`}
      </main>
    </div>
    ${comparing && html`<${Blind} pair=${comparing} tally=${tally} note=${note ?? (voteOf(run, comparing, "tie") ? TO_BE_KEPT : COUNTED_HERE)} onChoice=${choose} onClose=${closed} />`}
  `;
}

function Empty({ running, rounds }) {
  if (!running) {
    return html`<div class="empty"><p>Rounds appear here, side by side, as they are written.</p></div>`;
  }
  return html`<div class="empty"><p>${rounds.length ? nameOf(rounds.at(-1).round) : "Waiting"}. The texts are hidden until you have compared them.</p></div>`;
}

/** Every run of this page that came to its end, as input of `slhf refine`. */
function Download({ runs }) {
  const lines = runs.map(({ body, choice }) => `${lineOf(body, { choice })}\n`);
  const href = `data:application/jsonl;charset=utf-8,${encodeURIComponent(lines.join(""))}`;
  return html`<a class="button" download="drafts.jsonl" href=${href}>Download ${lines.length} as JSON lines</a>`;
}

function Taken({ what, text, copied }) {
  return html`
    <div class="taken">
      <label for="taken">${copied ? `The ${what === "link" ? "link" : `${what} code`} is copied.` : "Copy this:"}</label>
      <textarea id="taken" class="code" readonly rows=${Math.min(12, text.split("\n").length)} value=${text}></textarea>
      ${what === "link" && html`<p class="hint">The link holds prompt, draft and rounds, never the key. The server does not see it.</p>`}
    </div>
  `;
}

render(html`<${App} />`, document.getElementById("page"));
