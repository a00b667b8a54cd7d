// Refined chat with the official openai package for Node: only `baseURL` differs, and `refine` tunes the refinement.
// Usage: npm install openai && node node.mjs [QUESTION]      (SLHF_BASE_URL, SLHF_API_KEY, SLHF_MODEL)

import OpenAI from "openai";

const question = process.argv[2] ?? "Why is the sky blue?";
const server = process.env.SLHF_BASE_URL ?? "http://127.0.0.1:8000";
const client = new OpenAI({ baseURL: `${server}/v1`, apiKey: process.env.SLHF_API_KEY ?? "none" });
const model = process.env.SLHF_MODEL ?? (await client.models.list()).data[0].id;
const messages = [{ role: "user", content: question }];

const answer = await client.chat.completions.create({ model, messages, refine: { rounds: 2 } });
console.log(answer.choices[0].message.content);
console.log(answer.refinement);

const stream = await client.chat.completions.create({
  model,
  messages,
  stream: true,
  stream_options: { include_usage: true },
  refine: { rounds: 1, draft: "Because it is.", timeout_ms: 60_000 },
});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
  if (chunk.usage) console.log(`\n${chunk.usage.total_tokens} tokens`);
}
