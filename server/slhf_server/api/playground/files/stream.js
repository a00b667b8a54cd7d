// The calls of the page. Addresses are relative, so that the page works under whatever prefix a proxy gives it.

/** What the server answered instead of a stream. */
export class Refused extends Error {
  constructor(status, error, retryAfter) {
    super(error?.message ?? `The server answered with status ${status}.`);
    this.status = status;
    this.code = error?.code ?? null;
    this.retryAfter = retryAfter;
  }
}

const keyed = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

async function checked(response) {
  if (response.ok) return response;
  const body = await response.json().catch(() => null); // a proxy in between answers in its own words
  throw new Refused(response.status, body?.error, Number(response.headers.get("Retry-After")) || null);
}

export async function served(key, signal) {
  const response = await checked(await fetch("v1/models", { headers: keyed(key), signal }));
  return (await response.json()).data;
}

/** Have a vote kept: `{id, vote, a, b}`. */
export async function cast(vote, key) {
  const headers = { "Content-Type": "application/json", ...keyed(key) };
  await checked(await fetch("v1/votes", { method: "POST", headers, body: JSON.stringify(vote) }));
}

/** The events of a refinement as they come. */
export async function* refinement(body, key, signal) {
  const headers = { "Content-Type": "application/json", ...keyed(key) };
  const sent = JSON.stringify({ ...body, stream: true });
  const response = await checked(await fetch("v1/refine", { method: "POST", headers, body: sent, signal }));
  yield* eventsOf(response.body.pipeThrough(new TextDecoderStream()));
}

/** The JSON of server-sent events; comments (pings) and other fields are read over. */
export async function* eventsOf(stream) {
  const reader = stream.getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const frames = (rest + value).split(/\r?\n\r?\n/);
    rest = frames.pop();
    for (const frame of frames) {
      const data = frame.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (data.length) yield JSON.parse(data.map((line) => line.slice(5)).join("\n"));
    }
  }
}
