// Recommendations as rows: source scores, score and tokens of each item, and the latency of the answer.

import { $, adder, chips, element, figure, isolated, replaceRows, time, title } from "./dom.js";

const TIERS = { narrow: "smaller beam", "no-decoding": "nothing generated", popularity: "popular items only" };
const SOURCES = ["generative", "generative-item-scored", "diffusion", "cross-entropy", "sasrec"]; // display order; other sources come last

/** Number of items, latency, bundle, notices, and the reason for a degraded answer. */
export function showSummary(answer) {
  const count = answer.items.length;
  const what = count === 1 ? "1 recommendation" : `${count || "No"} recommendations`;
  const bundle = element("code", { title: answer.bundle }, answer.bundle.slice(0, 12));
  $("status").replaceChildren(`${what} in ${time(answer.milliseconds.total)}, by bundle `, bundle);
  $("notices").replaceChildren(...answer.notices.map(({ code, message }) => {
    const sentence = `${message[0].toUpperCase()}${message.slice(1)}.`;
    return element("li", { "data-code": code }, isolated(sentence));
  }));
  $("badge").hidden = !answer.degraded;
  const words = answer.degraded ? ["Degraded", TIERS[answer.tier], answer.reason] : [];
  $("badge").textContent = words.filter(Boolean).join(" · ");
  showLatency(answer.milliseconds);
}

function showLatency(spent) {
  const [stack, list] = $("latency").children;
  const stages = Object.entries(spent).filter(([stage, value]) => stage !== "total" && value > 0);
  const rest = spent.total - stages.reduce((sum, [, value]) => sum + value, 0);
  const parts = rest > 0.05 ? [...stages, ["other", rest]] : stages;
  const bar = ([stage, value]) => {
    const part = element("span", { class: `stage ${stage}` });
    part.style.flexGrow = value;
    return part;
  };
  const line = ([stage, value]) =>
    element("div", { class: stage }, element("dt", {}, stage), element("dd", {}, time(value)));
  stack.replaceChildren(...parts.map(bar));
  list.replaceChildren(...parts.map(line));
  $("latency").hidden = !parts.length;
}

/** The items as rows, whose buttons call `open(id)` and `add(item)`. */
export function showItems(items, { open, add }) {
  const named = items.flatMap((item) => Object.keys(item.source_scores));
  const sources = new Set([...SOURCES.filter((source) => named.includes(source)), ...named]);
  const ranges = [...sources].map((source) => {
    const values = items.map((item) => item.source_scores[source]).filter(Number.isFinite);
    return { source, least: Math.min(...values), greatest: Math.max(...values) };
  });
  const row = (item) => {
    const name = item.title || item.item_id;
    return element(
      "li",
      { class: "item" },
      element("span", { class: "rank", "aria-hidden": "true" }, String(item.rank)),
      title(name, () => open(item.item_id)),
      element("p", { class: "meta" }, element("code", { class: "id" }, item.item_id), chips(item.tokens)),
      element("dl", { class: "sources" }, ...ranges.map((range) => sourceBar(item.source_scores[range.source], range))),
      element("p", { class: "score" }, element("span", {}, "score "), element("b", {}, figure(item.score, 3))),
      adder(name, () => add(item)),
    );
  };
  replaceRows($("items"), items.map(row), $("results-title"));
  $("legend").hidden = !items.length;
}

/** The score of one source, and a bar for its position in the range of the list's scores. */
function sourceBar(value, { source, least, greatest }) {
  const isRanked = Number.isFinite(value);
  const bar = element("span", { class: "bar", "aria-hidden": "true" });
  const share = greatest > least ? (value - least) / (greatest - least) : 1;
  if (isRanked) bar.style.setProperty("--share", `${Math.round(8 + 92 * share)}%`);
  const dash = [element("span", { "aria-hidden": "true" }, "–"), element("span", { class: "hidden" }, "not ranked")];
  const score = element("span", { class: "figure" }, ...(isRanked ? [figure(value, 2)] : dash));
  return element("div", { class: source }, element("dt", {}, source), element("dd", {}, bar, score));
}

/** Highlight the prefix of each row's tokens that it shares with one of the paths. */
export function markShared(list, paths) {
  for (const group of list.querySelectorAll(".tokens")) {
    const codes = [...group.children];
    const depths = paths.map((path) => {
      const end = codes.findIndex((code, level) => code.textContent !== path[level]);
      return end < 0 ? codes.length : end;
    });
    const shared = Math.max(0, ...depths);
    codes.forEach((code, level) => code.classList.toggle("shared", level < shared));
  }
}
