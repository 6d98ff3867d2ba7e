// Choosing from a list while typing: the combobox pattern of WAI-ARIA, with arrows, Enter and Escape.

import { latest } from "./api.js";
import { element, isolated } from "./dom.js";

const TYPING_PAUSE = 150; // milliseconds
const SHOWN = 50;

/**
 * Make an input and its listbox a combobox; `note` is told how many options there are, or what went wrong.
 * `find(text, signal)` gives [{label, detail, ...}], or null where there is nothing to look for; `choose` takes one.
 */
export function combobox({ input, list, note }, find, choose) {
  const looking = latest();
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
    looking.cancel();
    show([]);
    say("", false);
  };

  const look = () => {
    clearTimeout(timer);
    timer = 0;
    return looking.run(async (signal) => {
      const found = await find(input.value.trim(), signal);
      show((found ?? []).slice(0, SHOWN));
      if (found?.length) say(`${options.length} of ${found.length} shown`, found.length > SHOWN);
      else say(found ? "Nothing has these words." : "", true);
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

  const step = (by) => (options.length ? mark((active + by + options.length) % options.length) : look());
  const keys = {
    ArrowDown: () => step(1),
    ArrowUp: () => step(-1),
    // What is shown may be of an older text: then Enter looks first.
    Enter: () => (options.length && !timer ? take(active) : look()),
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
    timer = setTimeout(look, TYPING_PAUSE);
  });
  input.addEventListener("click", () => options.length || look());
  input.addEventListener("blur", close);
  list.addEventListener("pointerdown", (event) => event.preventDefault()); // keeps focus in the input
}
