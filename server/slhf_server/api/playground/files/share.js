// A link that holds the form and the rounds in its fragment, which browsers send to nobody. Never the key.

import { EMPTY } from "./request.js";
import { idle } from "./run.js";

const PREFIX = "#r=";
const MOST_BYTES = 2_000_000;
/** Of what a link unpacks to: a few bytes can be packed so that they become gigabytes. */

/** The fragment for a form and a finished run. */
export async function fragmentOf(form, run) {
  const { body, rounds, refinement, output, status } = run;
  const kept = body && { body, rounds: rounds.filter((one) => one.done), refinement, output, status };
  const bytes = new Blob([JSON.stringify({ form, run: kept })]).stream();
  const packed = await new Response(bytes.pipeThrough(new CompressionStream("deflate-raw"))).arrayBuffer();
  return PREFIX + base64Of(new Uint8Array(packed));
}

/** What a fragment holds, as {form, run}; null where it is none of ours. Throws Error where it is broken. */
export async function restored(fragment) {
  if (!fragment.startsWith(PREFIX)) return null;
  const bytes = new Blob([bytesOf(fragment.slice(PREFIX.length))]).stream();
  const text = await limited(bytes.pipeThrough(new DecompressionStream("deflate-raw")));
  const { form, run } = JSON.parse(text);
  return { form: formOf(form), run: run ? runOf(run) : idle };
}

async function limited(stream) {
  const pieces = [];
  let size = 0;
  for (const reader = stream.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return await new Blob(pieces).text();
    size += value.length;
    if (size > MOST_BYTES) {
      await reader.cancel();
      throw new Error("the link holds too much");
    }
    pieces.push(value);
  }
}

function base64Of(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

const bytesOf = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));

/** Anybody can write a link, so of what it holds only what has the right type is taken. */
function formOf(given) {
  const fits = ([name, value]) => typeof given?.[name] === typeof value;
  const form = Object.fromEntries(Object.entries(EMPTY).map((entry) => [entry[0], fits(entry) ? given[entry[0]] : entry[1]]));
  form.rounds = Math.max(0, Math.trunc(form.rounds) || 0);
  return form;
}

const OPTIONS = { model: "", prompt: "", draft: "", instruction: "", rounds: 0, select: "", temperature: 0, seed: 0, max_total_tokens: 0 };

/** A request that may be copied as a program: only names that the page itself writes, lest a name be a program. */
function bodyOf(given) {
  const named = Object.entries(OPTIONS).filter(([name, example]) => typeof given?.[name] === typeof example);
  const body = Object.fromEntries(named.map(([name]) => [name, given[name]]));
  if (Array.isArray(given?.messages)) body.messages = given.messages;
  return body;
}

const text = (value) => (typeof value === "string" ? value : "");
const count = (value) => (Number.isFinite(value) ? value : 0);

function runOf(given) {
  const rounds = Array.isArray(given.rounds) ? given.rounds.map(roundOf) : [];
  const told = given.refinement;
  const refinement = told && {
    stop_reason: text(told.stop_reason),
    rounds_requested: count(told.rounds_requested),
    returned_round: count(told.returned_round),
    selection: told.selection ? { judge: text(told.selection.judge) } : null,
  };
  const done = given.status === "done" && refinement;
  return { ...idle, status: done ? "done" : "stopped", body: bodyOf(given.body), rounds, refinement, output: text(given.output), fromLink: true };
}

function judgedOf(given) {
  return { p: Number.isFinite(given.p) ? given.p : null, against: count(given.against), failed: given.failed === true };
}

function roundOf(given, place) {
  const usage = given?.usage ?? {};
  return {
    round: place,
    role: text(given?.role),
    model: text(given?.model),
    text: text(given?.text),
    finish_reason: text(given?.finish_reason),
    latency_ms: count(given?.latency_ms),
    edit_ratio: Number.isFinite(given?.edit_ratio) ? given.edit_ratio : null,
    lost: text(given?.lost) || null,
    judged: given?.judged ? judgedOf(given.judged) : undefined,
    usage: {
      prompt_tokens: count(usage.prompt_tokens),
      completion_tokens: count(usage.completion_tokens),
      prompt_tokens_details: { cached_tokens: count(usage.prompt_tokens_details?.cached_tokens) },
      completion_tokens_details: {
        accepted_prediction_tokens: count(usage.completion_tokens_details?.accepted_prediction_tokens),
        rejected_prediction_tokens: count(usage.completion_tokens_details?.rejected_prediction_tokens),
      },
    },
    done: true,
  };
}
