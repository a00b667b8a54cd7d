// What every Node check shares: where the server is, what it answers, and how a list of checks is run. As checks.py.

import assert from "node:assert/strict";

export const baseURL = `${process.env.SLHF_BASE_URL ?? "http://127.0.0.1:8000"}/v1`;
export const apiKey = "none";
export const MODEL = "fake";
export const UNKNOWN = "unknown-model";
export const QUESTION = "why is the sky blue?";
export const ANSWER = `better draft of: ${QUESTION}`;
export const COMPLETION_TOKENS = Number(process.env.SLHF_COMPLETION_TOKENS ?? "15");
export const FAILURE = process.env.SLHF_FAILURE ?? "the engine failed";
export const BREAK = "break";
export const REFINE = { draft: "Because it is.", rounds: 2 };
export const REFINED = "better better Because it is.";

// Asserts that the pieces join to the text, and that it did not come in one.
export function sameText(pieces, text = ANSWER) {
  const said = pieces.filter(Boolean);
  assert.equal(said.join(""), text);
  assert.ok(said.length > 1, `${said.length} piece`);
}

export async function collect(stream, piece) {
  const pieces = [];
  for await (const item of stream) pieces.push(piece(item));
  return pieces;
}

// Runs every check of the part that the command line names; exits 1 where one failed.
export async function main(parts) {
  const checks = parts[process.argv[2]];
  let failed = 0;
  for (const check of checks) {
    try {
      await check();
    } catch (error) {
      failed += 1;
      console.log(check.name, error);
    }
  }
  console.log(`${checks.length - failed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}
