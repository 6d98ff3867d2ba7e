// Building the document. Text from the server enters it as text nodes and attributes, never as markup.

export const $ = (id) => document.getElementById(id);

/** An element with attributes and children, strings as text; null or false leaves one out, a function is a listener. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** A button; `act` names it within its row, so that focus can be restored. */
export const button = (label, act, click, attributes = {}) =>
  element("button", { type: "button", "data-act": act, click, ...attributes }, label);

/** A text isolated from its surroundings: it may hold right-to-left marks. */
export const isolated = (text) => element("bdi", {}, text);

/** An item's title, which opens its details. */
export const title = (name, open) => button(isolated(name), "open", open, { class: "title" });

/** A button that adds an item to the history. */
export const adder = (name, add) =>
  button("+ Add", "add", add, { class: "add", "aria-label": `Add to the history: ${name}` });

/** A semantic id, token by token. */
export const chips = (tokens) =>
  element("span", { class: "tokens" }, ...tokens.map((token) => element("code", {}, token)));

/** A whole number with thousands separators. */
export const whole = (value) => value.toLocaleString("en", { maximumFractionDigits: 0 });

/** A number with fixed decimals. */
export const figure = (value, digits) => value.toFixed(digits).replace("-", "−");

/** A duration in milliseconds as text. */
export const time = (value) => `${value < 10 ? value.toFixed(1) : whole(value)} ms`;

/** Show an error in a box, with a button to try again. */
export function showError(box, error, retry) {
  const message = element("span", {}, error.message);
  box.replaceChildren(element("p", { class: "refusal" }, message, button("Try again", "retry", retry)));
}

/** Focus a control of a row, or another one where it is disabled; false where there is none. */
export function focusRow(list, index, act) {
  const row = list.children[Math.min(index, list.children.length - 1)];
  const wanted = [`[data-act="${act}"]:enabled`, "button.icon:enabled", "button"];
  const control = wanted.map((selector) => row?.querySelector(selector)).find(Boolean);
  control?.focus({ preventScroll: true });
  return Boolean(control);
}

/** Replace the rows of a list; focus stays at its position, or moves to `instead` where no row is left. */
export function replaceRows(list, rows, instead) {
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const index = focused ? [...list.children].indexOf(focused.closest("li")) : 0;
  list.replaceChildren(...rows);
  if (focused && !focusRow(list, index, focused.dataset.act)) instead.focus();
}
