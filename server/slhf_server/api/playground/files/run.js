// One refinement as the page knows it: plain data, and what each event of the stream makes of it.

import { refinement } from "./stream.js";

export const idle = { status: "idle", id: null, body: null, rounds: [], refinement: null, output: null, error: null };

const WHY = {
  rounds_done: (k) => `all ${k} rounds were done`,
  disabled: () => "no rounds were asked for",
  unchanged: () => "a round changed nothing",
  small_edit: () => "a round changed little",
  no_gain: () => "a round did not win against the best text before it",
  judge_sure: () => "the judge was sure that a round is better",
  deadline: () => "the time was up",
  token_budget: () => "the token budget was used up",
  context_length: () => "the next round would not have fitted into the model's context",
  error: () => "a round failed",
  tool_calls: () => "the draft calls tools",
  shadowed: () => "this model is in shadow mode, where nobody gets refinements",
  invalid_structure: () => "a round was not the structure that was asked for",
};

/** Why the refinement ended, as a sentence that also says which text is the answer. */
export function verdict(run) {
  const { status, refinement: report, error } = run;
  if (status === "stopped") return "Stopped by you. What was finished stands below.";
  if (status === "failed") return error;
  if (!report) return "";
  const { stop_reason: reason, rounds_requested: k, returned_round: number } = report;
  const because = (reason === "rounds_done" && k === 1 ? "the one round was done" : WHY[reason]?.(k)) ?? reason;
  const who = number ? `Round ${number}` : "The draft";
  const answer = report.selection ? `${who} was chosen by the judge ${report.selection.judge}.` : `${who} is the answer.`;
  return `Ended because ${because}. ${answer}`;
}

/** A short name of a round for headings and choices. */
export const nameOf = (number) => (number === 0 ? "Draft" : `Round ${number}`);

/** Play a request and call `show` with each new state, at most once a frame. Resolves with the last state. */
export async function play(body, key, signal, show) {
  let run = { ...idle, status: "running", body };
  let frame = 0;
  const soon = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      show(run);
    });
  };
  show(run);
  try {
    for await (const event of refinement(body, key, signal)) {
      run = after(run, event);
      soon();
    }
    if (run.status === "running") run = ended(run, "failed", "The connection broke off before the answer was there.");
  } catch (error) {
    run = signal.aborted ? ended(run, "stopped", null) : ended(run, "failed", wordsOf(error));
  }
  cancelAnimationFrame(frame);
  show(run);
  return run;
}

function after(run, event) {
  switch (event.type) {
    case "round.started":
      return { ...run, rounds: [...run.rounds, { ...event, text: "", done: false }] };
    case "round.delta":
      return changed(run, event.round, (round) => ({ ...round, text: round.text + event.delta }));
    case "round.completed":
      return run.rounds.some((round) => round.round === event.round)
        ? changed(run, event.round, (round) => ({ ...round, ...event, done: true }))
        : { ...run, rounds: [...run.rounds, { ...event, done: true }] };
    case "round.judged":
      return changed(run, event.round, (round) => ({ ...round, judged: event }));
    case "refinement.completed":
      return { ...ended(run, "done", null), id: event.id, refinement: event.refinement, output: event.output };
    case "error":
      return ended(run, "failed", event.error.message);
    default:
      return run; // a newer server may say more
  }
}

const changed = (run, number, change) => ({
  ...run,
  rounds: run.rounds.map((round) => (round.round === number ? change(round) : round)),
});

/** A round that was under way is no round of the refinement, and says so. */
const ended = (run, status, error) => ({
  ...run,
  status,
  error,
  rounds: run.rounds.map((round) => (round.done ? round : { ...round, cut: true })),
});

export function wordsOf(error) {
  if (error.status === 401) return "The server asks for an API key, or does not know this one.";
  if (error.status === 429) return `${error.message} Try again in ${error.retryAfter ?? 1} s.`;
  return error.status ? error.message : "The server could not be reached.";
}
