// The page at `/`: search items, build a history, see the recommendations and each item's source scores.
// The history and the options are part of the address, so that a link shares them; a key stays in this tab's session.

import { markShared, showItems, showSummary } from "./answer.js";
import { key, latest, request } from "./api.js";
import { combobox } from "./combobox.js";
import { $, adder, button, chips, element, focusRow, isolated, replaceRows, showError, title, whole } from "./dom.js";

const LENGTHS = [5, 10, 20, 50];
const DEFAULT_LENGTH = 10;
const NOTICE = 4000; // milliseconds that a notice is shown

const state = { history: [], k: DEFAULT_LENGTH, where: new Map() }; // where: column -> values
const known = new Map(); // item id -> its title and, once loaded, its tokens; or that it is missing
let bundle = null; // of the metadata shown

// The address

function readAddress() {
  const address = new URLSearchParams(location.hash.slice(1));
  const k = Number(address.get("k"));
  state.history = address.getAll("item");
  state.k = LENGTHS.includes(k) ? k : DEFAULT_LENGTH;
  state.where = new Map();
  for (const [name, value] of address) {
    const column = name.startsWith("where.") ? name.slice("where.".length) : "";
    if (column) state.where.set(column, [...(state.where.get(column) ?? []), value]);
  }
}

function writeAddress() {
  const address = new URLSearchParams(state.history.map((id) => ["item", id]));
  if (state.k !== DEFAULT_LENGTH) address.append("k", state.k);
  for (const [column, values] of state.where) values.forEach((value) => address.append(`where.${column}`, value));
  history.replaceState(null, "", String(address) ? `#${address}` : location.pathname + location.search);
}

function changed() {
  writeAddress();
  refresh();
}

function refresh() {
  renderHistory();
  renderOptions();
  recommend();
  loadTitles();
}

// The history

function add(item) {
  if (!known.get(item.item_id)?.tokens) known.set(item.item_id, { title: item.title });
  state.history = [...state.history.filter((id) => id !== item.item_id), item.item_id];
  changed();
  $("history").scrollTop = $("history").scrollHeight;
  notify(`Added to the history: ${item.title || item.item_id}`);
}

function move(from, to) {
  const [id] = state.history.splice(from, 1);
  state.history.splice(to, 0, id);
  changed();
  focusRow($("history"), to, to < from ? "up" : "down");
}

function remove(index) {
  state.history.splice(index, 1);
  changed();
}

let noticeTimer = 0;

/** Show and announce a notice for a few seconds. */
function notify(text) {
  clearTimeout(noticeTimer);
  $("notice").replaceChildren(isolated(text));
  noticeTimer = setTimeout(() => $("notice").replaceChildren(), NOTICE);
}

function renderHistory() {
  const last = state.history.length - 1;
  const row = (id, index) => {
    const { title: name = "", tokens = [], missing = false } = known.get(id) ?? {};
    const act = (sign, act, does, words, off = false) =>
      button(sign, act, does, { class: "icon", "aria-label": `${words}: ${name || id}`, disabled: off });
    return element(
      "li",
      {},
      title(name || id, () => open(id)),
      act("↑", "up", () => move(index, index - 1), "Move up", index === 0),
      act("↓", "down", () => move(index, index + 1), "Move down", index === last),
      act("✕", "remove", () => remove(index), "Remove"),
      element("p", { class: "meta" }, missing ? "not in this catalogue, ignored" : chips(tokens)),
    );
  };
  replaceRows($("history"), state.history.map(row), $("search"));
  $("clear").hidden = last < 0;
  const order = last > 0 ? "Oldest first, the newest last." : "";
  $("history-note").textContent = last < 0 ? "Empty." : order;
}

const loading = latest();

/** Requests titles and tokens of the history's items, one after the other, the newest first. */
function loadTitles() {
  return loading.run(async (signal) => {
    for (const id of [...state.history].reverse()) {
      if (known.get(id)?.tokens || known.get(id)?.missing) continue;
      try {
        const details = await request(`v1/items/${encodeURIComponent(id)}`, signal);
        known.set(id, { title: details.title, tokens: details.tokens });
      } catch (error) {
        if (error.status !== 404) throw error;
        known.set(id, { missing: true });
      }
      renderHistory();
      markShared($("items"), paths());
    }
  }, () => {}); // ids are shown in place of titles until the next change
}

const paths = () => state.history.map((id) => known.get(id)?.tokens ?? []);

// The recommendations

const recommending = latest();

function recommend() {
  $("results").setAttribute("aria-busy", "true");
  const body = { history: state.history, k: state.k, where: Object.fromEntries(state.where) };
  return recommending.run(async (signal) => showAnswer(await request("v1/recommend", signal, body)), showNoAnswer);
}

function showAnswer(answer) {
  const retried = $("error").contains(document.activeElement);
  $("results").setAttribute("aria-busy", "false");
  $("error").replaceChildren();
  showSummary(answer);
  showItems(answer.items, { open, add });
  markShared($("items"), paths());
  if (retried) $("results-title").focus();
  const unknown = answer.notices.filter(({ code }) => code === "unknown-items").flatMap((notice) => notice.item_ids);
  for (const id of unknown) known.set(id, { missing: true });
  if (unknown.length) renderHistory();
  if (bundle !== answer.bundle) loadVersion();
}

function showNoAnswer(error) {
  const inside = $("results").contains(document.activeElement);
  $("results").setAttribute("aria-busy", "false");
  for (const id of ["badge", "latency", "legend"]) $(id).hidden = true;
  for (const id of ["status", "notices", "items"]) $(id).replaceChildren();
  showError($("error"), error, begin);
  if (inside) $("error").querySelector("button").focus();
}

// The details of one item

const opening = latest();

function open(id) {
  return opening.run(async (signal) => {
    $("details-title").replaceChildren(isolated(known.get(id)?.title || id));
    $("details-body").replaceChildren(element("p", { class: "soft" }, "Loading"));
    if (!$("details").open) $("details").showModal();
    $("details-title").focus();
    $("details").scrollTop = 0;
    showDetails(await request(`v1/items/${encodeURIComponent(id)}`, signal));
  }, (error) => showError($("details-body"), error, () => open(id)));
}

function showDetails(details) {
  const take = (item) => {
    $("details").close();
    add(item);
  };
  const neighbour = (item) => {
    const name = item.title || item.item_id;
    const meta = element("p", { class: "meta" }, element("code", { class: "id" }, item.item_id), chips(item.tokens));
    return element("li", {}, title(name, () => open(item.item_id)), adder(name, () => take(item)), meta);
  };
  const texts = Object.entries(details.texts).filter(([name, text]) => name !== "title" && text);
  const lines = texts.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, isolated(text))]);
  const withdrawn = details.withdrawn ? element("span", { class: "badge" }, "withdrawn") : null;
  const near = element("ul", { class: "neighbours" }, ...details.neighbours.map(neighbour));
  $("details-title").replaceChildren(isolated(details.title || details.item_id));
  $("details-body").replaceChildren(
    element("p", { class: "meta" }, element("code", { class: "id" }, details.item_id), chips(details.tokens)),
    element("p", { class: "soft" }, `${whole(details.interactions)} interactions`, withdrawn),
    button("Add to the history", "add", () => take(details), { class: "main" }),
    element("dl", { class: "texts" }, ...lines),
    element("h3", {}, "Nearest items"),
    details.neighbours.length ? near : element("p", { class: "soft" }, "None."),
  );
  markShared(near, [details.tokens]);
}

// The search and the filters

async function findItems(text, signal) {
  if (!text) return null;
  const { items } = await request(`v1/search?${new URLSearchParams({ q: text, limit: 20 })}`, signal);
  return items.map((item) => ({ ...item, label: item.title || item.item_id, detail: item.item_id }));
}

const filtering = latest();

function loadFilters() {
  return filtering.run(async (signal) => {
    const { columns } = await request("v1/filters?limit=1000", signal);
    $("filters").replaceChildren(...Object.entries(columns).map(filter));
    renderOptions();
  }, (error) => showError($("filters"), error, loadFilters));
}

function filter([column, values], index) {
  const id = `filter-${index}`;
  const input = element("input", {
    id, type: "text", role: "combobox", placeholder: "Any", autocomplete: "off", spellcheck: "false",
    "aria-expanded": "false", "aria-controls": `${id}-values`, "aria-autocomplete": "list",
  });
  const listed = { id: `${id}-values`, role: "listbox", "aria-label": `Values of ${column}`, hidden: true };
  const list = element("ul", listed);
  const note = element("p", { class: "note hidden", role: "status" });
  const matching = async (text) => {
    const words = text.toLowerCase().split(/\s+/);
    const chosen = new Set(state.where.get(column));
    return values
      .filter(({ value }) => !chosen.has(value) && words.every((word) => value.toLowerCase().includes(word)))
      .map(({ value, items }) => ({ value, label: value, detail: whole(items) }));
  };
  combobox({ input, list, note }, matching, ({ value }) => {
    state.where.set(column, [...(state.where.get(column) ?? []), value]);
    changed();
  });
  const chosen = element("ul", { class: "chosen", "data-column": column, "aria-label": `Chosen ${column}` });
  const label = element("label", { for: id }, `Filter by ${column}`);
  return element("div", { class: "field" }, label, element("div", { class: "combobox" }, input, list), note, chosen);
}

function renderOptions() {
  $("k").value = state.k;
  for (const box of $("filters").querySelectorAll(".chosen")) {
    const { column } = box.dataset;
    const values = state.where.get(column) ?? [];
    const drop = (value) => {
      const left = values.filter((other) => other !== value);
      if (left.length) state.where.set(column, left);
      else state.where.delete(column);
      changed();
    };
    const row = (value) => {
      const dropper = { class: "icon", "aria-label": `Drop the filter: ${value}` };
      return element("li", {}, isolated(value), button("✕", "drop", () => drop(value), dropper));
    };
    replaceRows(box, values.map(row), box.parentElement.querySelector("input"));
  }
}

// Bundle metadata, the API key, event handlers

const loadingVersion = latest();

function loadVersion() {
  return loadingVersion.run(async (signal) => {
    const version = await request("version", signal);
    bundle = version.bundle;
    $("about").textContent = `${whole(version.items)} items · ${version.routes.join(" + ")} · recsys ${version.version}`;
  }, () => {}); // optional: the page works without it
}

function begin() {
  $("forget").hidden = !key.get();
  refresh();
  if (!$("filters").querySelector(".field")) loadFilters();
}

document.addEventListener("keyneeded", ({ detail }) => {
  key.set(null);
  $("forget").hidden = true;
  $("key-reason").textContent = detail;
  if (!$("key").open) $("key").showModal();
});
$("key-form").addEventListener("submit", () => {
  key.set($("key-value").value);
  $("key-value").value = "";
  begin();
});
$("key-cancel").addEventListener("click", () => $("key").close());
$("forget").addEventListener("click", () => {
  key.set(null);
  begin();
});
$("k").append(...LENGTHS.map((length) => element("option", { value: length }, String(length))));
$("k").addEventListener("change", () => {
  state.k = Number($("k").value);
  changed();
});
$("clear").addEventListener("click", () => {
  state.history = [];
  changed();
  $("search").focus();
});
$("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address holds the history
  $("results-title").focus();
});
$("close").addEventListener("click", () => $("details").close());
$("details").addEventListener("click", (event) => event.target === $("details") && $("details").close());
$("details").addEventListener("close", opening.cancel);
window.addEventListener("hashchange", () => {
  readAddress();
  refresh();
});
combobox({ input: $("search"), list: $("found"), note: $("search-note") }, findItems, add);
readAddress();
begin();
