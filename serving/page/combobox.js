// An autocomplete input: the combobox pattern of WAI-ARIA, with arrows, Enter and Escape.

import { latest } from "./api.js";
import { element, isolated } from "./dom.js";

const TYPING_PAUSE = 150; // milliseconds
const SHOWN = 50;

/**
 * Make an input and its listbox a combobox; `note` shows the number of options, or an error.
 * `find(text, signal)` returns [{label, detail, ...}], or null for an empty text; `choose` gets the chosen one.
 */
export function combobox({ input, list, note }, find, choose) {
  const searching = latest();
  let options = [], active = -1, timer = 0;

  const mark = (index) => {
    active = index;
    [...list.children].forEach((row, place) => row.setAttribute("aria-selected", place === index));
    if (index < 0) input.removeAttribute("aria-activedescendant");
    else {
      input.setAttribute("aria-activedescendant", list.children[index].id);
      list.children[index].scrollIntoView({ block: "nearest" });
    }
  };

  const show = (found) => {
    options = found;
    list.replaceChildren(...found.map((option, index) => element(
      "li",
      { role: "option", id: `${list.id}-${index}`, click: () => take(index) },
      isolated(option.label), " ", element("span", { class: "soft" }, option.detail),
    )));
    list.hidden = !found.length;
    input.setAttribute("aria-expanded", !list.hidden);
    mark(found.length ? 0 : -1);
  };

  const say = (text, visible) => {
    note.textContent = text;
    note.classList.toggle("hidden", !visible);
  };

  const close = () => {
    clearTimeout(timer);
    timer = 0;
    searching.cancel();
    show([]);
    say("", false);
  };

  const search = () => {
    clearTimeout(timer);
    timer = 0;
    return searching.run(async (signal) => {
      const found = await find(input.value.trim(), signal);
      show((found ?? []).slice(0, SHOWN));
      if (found?.length) say(`${options.length} of ${found.length} shown`, found.length > SHOWN);
      else say(found ? "No matches." : "", true);
    }, (error) => {
      show([]);
      say(error.message, true);
    });
  };

  const take = (index) => {
    const option = options[index];
    input.value = "";
    close();
    choose(option);
  };

  const step = (by) => (options.length ? mark((active + by + options.length) % options.length) : search());
  const keys = {
    ArrowDown: () => step(1),
    ArrowUp: () => step(-1),
    // The options may be of an older text: then Enter searches first.
    Enter: () => (options.length && !timer ? take(active) : search()),
    Escape: () => {
      if (!options.length) input.value = "";
      close();
    },
  };

  input.addEventListener("keydown", (event) => {
    if (event.isComposing || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(search, TYPING_PAUSE);
  });
  input.addEventListener("click", () => options.length || search());
  input.addEventListener("blur", close);
  list.addEventListener("pointerdown", (event) => event.preventDefault()); // keeps focus in the input
}
