// From what stands in the form to the body of POST /v1/refine, and to the same request as a program.

export const EMPTY = {
  model: "",
  kind: "prompt",
  prompt: "",
  messages: "",
  drafter: "model",
  draft: "",
  instruction: "",
  rounds: 1,
  select: "",
  temperature: "",
  seed: "",
  budget: "",
};

/** A value of the form that cannot be sent; `field` is the form's name of it. */
export class BadField extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/** The body of the request, without `stream`. Throws BadField. */
export function bodyOf(form) {
  const body = form.model ? { model: form.model } : {};
  if (form.kind === "prompt") {
    if (!form.prompt.trim()) throw new BadField("prompt", "Write a prompt first.");
    body.prompt = form.prompt;
  } else {
    body.messages = conversationOf(form.messages);
  }
  if (form.drafter === "me") body.draft = form.draft;
  if (form.instruction.trim()) body.instruction = form.instruction;
  body.rounds = form.rounds;
  if (form.select) body.select = form.select;
  const temperature = numberOf("temperature", form.temperature, (n) => n >= 0 && n <= 2, "a number from 0 to 2");
  const seed = numberOf("seed", form.seed, Number.isSafeInteger, "a whole number of at most 15 digits");
  const budget = numberOf("budget", form.budget, (n) => Number.isSafeInteger(n) && n > 0, "a whole number above 0");
  if (temperature !== null) body.temperature = temperature;
  if (seed !== null) body.seed = seed;
  if (budget !== null) body.max_total_tokens = budget;
  return body;
}

function conversationOf(text) {
  let messages;
  try {
    messages = JSON.parse(text);
  } catch (error) {
    throw new BadField("messages", `This is not JSON: ${error.message}`);
  }
  if (!Array.isArray(messages) || !messages.length || messages.some((one) => typeof one?.role !== "string")) {
    throw new BadField("messages", 'A conversation is a list of messages: [{"role": "user", "content": "..."}]');
  }
  return messages;
}

function numberOf(field, text, holds, what) {
  if (!String(text).trim()) return null;
  const number = Number(text);
  if (!Number.isFinite(number) || !holds(number)) throw new BadField(field, `This must be ${what}.`);
  return number;
}

/** The request as a shell command. The key is left to the environment, so that it is not copied along. */
export function curlOf(body, address, withKey) {
  const quoted = `'${JSON.stringify(body, null, 2).replaceAll("'", `'\\''`)}'`;
  const key = withKey ? `    -H "Authorization: Bearer $SLHF_API_KEY" \\\n` : "";
  return `curl '${address}v1/refine' -H 'Content-Type: application/json' \\\n${key}    -d ${quoted}\n`;
}

/** The request as Python with the `slhf` client, which takes a key from SLHF_API_KEY. */
export function pythonOf(body, address) {
  const { prompt, messages, ...options } = body;
  const named = Object.entries(options).map(([name, value]) => `        ${name}=${python(value)},\n`);
  return (
    "from slhf import Client\n\n" +
    `with Client(${python(address)}) as client:\n` +
    `    answer = client.refine(\n        ${python(prompt ?? messages)},\n${named.join("")}    )\n` +
    "print(answer.output)\n"
  );
}

const WORDS = new Map([[true, "True"], [false, "False"], [null, "None"]]);

function python(value) {
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (WORDS.has(value)) return WORDS.get(value);
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${python(one)}`).join(", ")}}`;
}

/** A line of the input of `slhf refine`: prompt and draft beside each other, everything else under `refine`. */
export function lineOf(body, more) {
  const { prompt, messages, draft, ...refine } = body;
  return JSON.stringify({ prompt, messages, draft, refine, ...more });
}
