// The official openai package for Node.

import assert from "node:assert/strict";
import OpenAI from "openai";
import {
  ANSWER, BREAK, COMPLETION_TOKENS, MODEL, QUESTION, REFINE, REFINED, UNKNOWN, apiKey, baseURL, collect, main, sameText,
} from "./checks.mjs";

const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const chat = { model: MODEL, messages: [{ role: "user", content: QUESTION }] };

async function listsTheModel() {
  assert.deepEqual((await client.models.list()).data.map((model) => model.id), [MODEL]);
}

async function answersWithUsage() {
  const answer = await client.chat.completions.create(chat);
  assert.equal(answer.choices[0].message.content, ANSWER);
  assert.equal(answer.usage.completion_tokens, COMPLETION_TOKENS);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + COMPLETION_TOKENS);
}

async function streamsWithUsage() {
  const stream = await client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } });
  const chunks = await collect(stream, (chunk) => chunk);
  sameText(chunks.map((chunk) => chunk.choices[0]?.delta.content));
  assert.equal(chunks.at(-1).usage.completion_tokens, COMPLETION_TOKENS);
}

async function streamsThroughTheHelper() {
  const pieces = [];
  const stream = client.chat.completions.stream(chat).on("content", (piece) => pieces.push(piece));
  assert.equal(await stream.finalContent(), ANSWER);
  sameText(pieces);
}

async function refinesADraft() {
  const answer = await client.chat.completions.create({ ...chat, refine: REFINE });
  assert.equal(answer.choices[0].message.content, REFINED);
  assert.equal(answer.refinement.draft_source, "client");
}

async function namesAnUnknownModel() {
  await assert.rejects(client.chat.completions.create({ ...chat, model: UNKNOWN }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    return error.code === "model_not_found";
  });
}

async function raisesAnErrorInsideAStream() {
  const messages = [{ role: "user", content: BREAK }];
  const pieces = [];
  await assert.rejects(async () => {
    const stream = await client.chat.completions.create({ model: MODEL, messages, stream: true });
    for await (const chunk of stream) pieces.push(chunk.choices[0].delta.content);
  }, OpenAI.APIError);
  assert.ok(pieces.includes("half"));
}

async function responds() {
  const response = await client.responses.create({ model: MODEL, input: QUESTION });
  assert.equal(response.output_text, ANSWER);
  assert.equal(response.usage.output_tokens, COMPLETION_TOKENS);
}

async function respondsToInstructions() {
  const response = await client.responses.create({ model: MODEL, input: QUESTION, instructions: "Be brief." });
  assert.equal(response.output_text, ANSWER);
}

async function streamsAResponse() {
  const events = await collect(
    await client.responses.create({ model: MODEL, input: QUESTION, stream: true }),
    (event) => event,
  );
  sameText(events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta));
  assert.equal(events.at(-1).type, "response.completed");
}

async function streamsAResponseThroughTheHelper() {
  const stream = client.responses.stream({ model: MODEL, input: QUESTION });
  assert.equal((await stream.finalResponse()).output_text, ANSWER);
}

async function completes() {
  const answer = await client.completions.create({ model: MODEL, prompt: QUESTION });
  assert.equal(answer.choices[0].text, ANSWER);
}

async function streamsACompletion() {
  const stream = await client.completions.create({ model: MODEL, prompt: QUESTION, stream: true });
  sameText(await collect(stream, (chunk) => chunk.choices[0]?.text));
}

await main({
  chat: [
    listsTheModel, answersWithUsage, streamsWithUsage, streamsThroughTheHelper, refinesADraft, namesAnUnknownModel,
    raisesAnErrorInsideAStream,
  ],
  responses: [responds, respondsToInstructions, streamsAResponse, streamsAResponseThroughTheHelper],
  completions: [completes, streamsACompletion],
});
