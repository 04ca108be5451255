// Elements, made in one line each. Text goes in as text: nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg";

/** The element with an id. */
export const at = (id) => document.getElementById(id);

/** Make an element: `on…` are listeners; attributes that are null or false are left out, as such children are. */
export const el = (name, attributes, ...children) =>
  filled(document.createElement(name), attributes, children);

/** Make an element of a drawing. */
export const svg = (name, attributes, ...children) =>
  filled(document.createElementNS(SVG, name), attributes, children);

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Open or fold what a button controls. */
export function disclose(button, panel, open = panel.hidden) {
  panel.hidden = !open;
  button.setAttribute("aria-expanded", String(open));
}

/** What went wrong, and what to do about it. */
export const told = (error) =>
  el("div", { class: "problem" },
    el("p", {}, el("strong", {}, error.title ?? "Something went wrong"), error.message ? `: ${error.message}` : ""),
    error.hint && el("p", {}, error.hint));
