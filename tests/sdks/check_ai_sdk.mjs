// Vercel's AI SDK: `ai` with the provider for any OpenAI-compatible server.

import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, streamText } from "ai";
import {
  ANSWER, BREAK, COMPLETION_TOKENS, FAILURE, MODEL, QUESTION, REFINE, REFINED, UNKNOWN, apiKey, baseURL, collect, main, sameText,
} from "./checks.mjs";

const slhf = createOpenAICompatible({ name: "slhf", baseURL, apiKey, includeUsage: true });
const request = { model: slhf(MODEL), prompt: QUESTION, maxRetries: 0 };
const same = (piece) => piece;

async function answersWithUsage() {
  const { text, usage } = await generateText(request);
  assert.equal(text, ANSWER);
  assert.equal(usage.outputTokens, COMPLETION_TOKENS);
  assert.equal(usage.totalTokens, usage.inputTokens + COMPLETION_TOKENS);
}

async function streamsWithUsage() {
  const result = streamText(request);
  sameText(await collect(result.textStream, same));
  assert.equal((await result.usage).outputTokens, COMPLETION_TOKENS);
}

async function refinesADraft() {
  const { text } = await generateText({ ...request, providerOptions: { slhf: { refine: REFINE } } });
  assert.equal(text, REFINED);
}

async function namesAnUnknownModel() {
  await assert.rejects(generateText({ ...request, model: slhf(UNKNOWN) }), (error) => {
    assert.ok(APICallError.isInstance(error));
    return error.statusCode === 404 && error.message.includes(UNKNOWN);
  });
}

// An AI SDK stream does not throw: an error is one of its parts.
async function showsAnErrorInsideAStream() {
  const result = streamText({ ...request, prompt: BREAK, onError: () => {} });
  const parts = await collect(result.fullStream, same);
  assert.ok(parts.some((part) => part.type === "text-delta" && part.text === "half"));
  assert.ok(parts.find((part) => part.type === "error").error.message.includes(FAILURE));
}

// For a completion the AI SDK writes the chat as a text with a heading for each role, so that is what is drafted.
async function completes() {
  const { text } = await generateText({ ...request, model: slhf.completionModel(MODEL) });
  assert.equal(text, `better draft of: user:\n${request.prompt}\n\nassistant:\n`);
}

await main({
  chat: [answersWithUsage, streamsWithUsage, refinesADraft, namesAnUnknownModel, showsAnErrorInsideAStream],
  completions: [completes],
});
