// Three ways to show a round's text: as it is, as Markdown, or as the words that changed.

import { html, useLayoutEffect, useMemo, useRef } from "./vendor/htm-preact.js";
import { Marked } from "./vendor/marked.js";

const { DOMPurify, Diff } = globalThis;

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escaped = (text) => text.replace(/[&<>"]/g, (one) => ESCAPES[one]);
/** HTML in a text is shown as it is written: an answer about HTML is an answer about what one can see. */
const shown = ({ text, block }) => (block ? `<p>${escaped(text)}</p>` : escaped(text));
/** In 4*60 a star is a sign of arithmetic: Markdown would take both stars of a text with two products, and what is between them for emphasis. */
function emStrong(text, _, before) {
  const [stars] = /^\**/.exec(text);
  return stars && /[\w)\]]/.test(before) ? { type: "text", raw: stars, text: stars } : false; // false: as Markdown has it
}
const markdown = new Marked({ async: false, breaks: true, renderer: { html: shown }, tokenizer: { emStrong } });

const CLEAN = {
  ALLOWED_TAGS: (
    "a b blockquote br code del em h1 h2 h3 h4 h5 h6 hr i li ol p pre s strong sub sup table tbody td th thead tr ul"
  ).split(" "),
  ALLOWED_ATTR: ["align", "href", "start", "title"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true,
};
const DEEPEST_HEADING = 6;
/** Scripts without spaces between words need the browser's dictionary. */
const WITHOUT_SPACES = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Khmer}\p{Script=Lao}]/u;

/** A model's or a stranger's Markdown as harmless nodes: no scripts, no images, no addresses but of the web. */
function nodesOf(text) {
  const nodes = DOMPurify.sanitize(markdown.parse(text), CLEAN);
  for (const link of nodes.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const table of nodes.querySelectorAll("table, pre")) table.tabIndex = 0; // they scroll, so the keyboard must reach them
  for (const heading of nodes.querySelectorAll("h1, h2, h3, h4, h5, h6")) lower(heading);
  return nodes;
}

/** The page's own headings go down to the third level; those of a text follow below. */
function lower(heading) {
  const level = Math.min(Number(heading.tagName[1]) + 3, DEEPEST_HEADING);
  const lowered = document.createElement(`h${level}`);
  lowered.append(...heading.childNodes);
  heading.replaceWith(lowered);
}

export function Markdown({ text }) {
  const place = useRef(null);
  useLayoutEffect(() => place.current.replaceChildren(nodesOf(text)), [text]);
  return html`<div class="markdown" ref=${place}></div>`;
}

/** Parts {value, added, removed} from one text to another; of very different long texts by lines. */
function changesOf(from, to) {
  const intlSegmenter = WITHOUT_SPACES.test(from + to) ? new Intl.Segmenter(undefined, { granularity: "word" }) : undefined;
  return Diff.diffWords(from, to, { intlSegmenter, timeout: 400 }) ?? Diff.diffLines(from, to);
}

const wordsIn = (parts) => parts.reduce((sum, part) => sum + part.value.split(/\s+/).filter(Boolean).length, 0);

export function Changes({ from, to, name }) {
  const parts = useMemo(() => changesOf(from, to), [from, to]);
  const added = wordsIn(parts.filter((part) => part.added));
  const removed = wordsIn(parts.filter((part) => part.removed));
  const counted = added + removed ? `${added} added, ${removed} removed` : "nothing changed";
  return html`
    <p class="against">Against ${name === "Draft" ? "the draft" : name.toLowerCase()}: ${counted}</p>
    <p class="plain">
      ${parts.map((part) =>
        part.added ? html`<ins>${part.value}</ins>` : part.removed ? html`<del>${part.value}</del>` : part.value,
      )}
    </p>
  `;
}
