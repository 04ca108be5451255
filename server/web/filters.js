// Filters on metadata, built from the fields that there are.

import { ask } from "./api.js";
import { at, disclose, el } from "./dom.js";

// What can be asked of a field of each type: [operator, what it is called].
const OPERATORS = {
  text: [["$eq", "is"], ["$ne", "is not"], ["$contains", "contains"]],
  number: [["$eq", "="], ["$gte", "≥"], ["$lte", "≤"], ["$ne", "≠"]],
  date: [["$gte", "from"], ["$lte", "until"], ["$eq", "is"]],
  boolean: [["$eq", "is"]],
};
const PRESENCE = [["exists", "is there"], ["missing", "is not there"]];

let fields = [];
let conditions = []; // {path, operator, value}
let changed = () => {};

/** `onChange` is called when the filter is another. */
export function startFilters(onChange) {
  changed = onChange;
  at("filter-button").addEventListener("click", () => {
    const form = at("filter-form");
    disclose(at("filter-button"), form);
    if (!form.hidden) {
      draw(form);
      form.querySelector("select, a")?.focus();
    }
  });
}

/** Ask the server which fields there are. */
export async function loadFields() {
  try {
    ({ fields } = await ask("metadata/fields"));
  } catch { /* the form says that there are none */ }
}

/** The filter of POST /search, or null. */
export const currentFilter = () =>
  conditions.length ? { $and: conditions.map(({ path, operator, value }) => ({ [path]: clause(operator, value) })) } : null;

export function addCondition(condition) {
  const same = (each) => JSON.stringify(each) === JSON.stringify(condition);
  showConditions(conditions.some(same) ? conditions : [...conditions, condition]);
}

/** Take these for the conditions, and search. */
export function showConditions(wanted) {
  conditions = wanted;
  at("conditions").replaceChildren(...conditions.map((condition) => {
    const name = `${condition.path} ${nameOf(condition)}`;
    return el("li", {}, el("button", {
      type: "button", class: "condition", "aria-label": `Remove the filter ${name}`,
      onclick: () => {
        showConditions(conditions.filter((each) => each !== condition));
        at("filter-button").focus();
      },
    }, name, el("span", { "aria-hidden": "true" }, " ×")));
  }));
  changed();
}

const clause = (operator, value) =>
  operator === "exists" || operator === "missing" ? { $exists: operator === "exists" } : { [operator]: value };

function nameOf({ operator, value }) {
  const names = Object.fromEntries([...Object.values(OPERATORS).flat(), ...PRESENCE]);
  const name = operator === "$eq" ? (typeof value === "number" ? "=" : "is") : names[operator];
  return value === undefined ? name : `${name} ${value}`;
}

function draw(form) {
  if (!fields.length) {
    form.replaceChildren(el("p", {}, "No document has metadata, so there is nothing to filter by. Send some with ",
      el("code", {}, "POST /documents"), ", or ", el("a", { href: "#add" }, "add files"), ": they bring their path and title."));
    return;
  }
  const path = el("select", { name: "path", "aria-label": "Field" }, fields.map((field) => el("option", {}, field.path)));
  const rest = el("span", { class: "rest" });
  const fieldOf = () => fields.find((field) => field.path === path.value);
  path.addEventListener("change", () => drawRest(rest, fieldOf()));
  drawRest(rest, fieldOf());
  form.replaceChildren(path, rest, el("button", { type: "submit", class: "main" }, "Add"));
  form.onsubmit = (event) => {
    event.preventDefault();
    addCondition(read(form));
    disclose(at("filter-button"), form, false);
    at("filter-button").focus();
  };
}

function drawRest(place, field) {
  const type = field.types.length === 1 ? field.types[0] : "text";
  const operator = el("select", { name: "operator", "aria-label": "Condition" },
    [...OPERATORS[type], ...PRESENCE].map(([value, name]) => el("option", { value }, name)));
  const value = input(type, field);
  operator.addEventListener("change", () => {
    value.hidden = value.disabled = PRESENCE.some(([name]) => name === operator.value);
  });
  place.dataset.type = type;
  place.replaceChildren(operator, value, el("datalist", { id: "values" }, field.values
    .filter((each) => typeof each.value !== "boolean")
    .map((each) => el("option", { value: each.value }, `${each.documents}`))));
}

function input(type, field) {
  const attributes = { name: "value", "aria-label": "Value", required: true };
  if (type === "boolean") return el("select", attributes, el("option", {}, "true"), el("option", {}, "false"));
  const [least, most] = field.range ?? [];
  const placeholder = field.range ? `${String(least).slice(0, 10)} to ${String(most).slice(0, 10)}` : "value";
  if (type === "number") return el("input", { ...attributes, type: "number", step: "any", placeholder, list: "values" });
  return el("input", { ...attributes, list: "values", placeholder, autocomplete: "off" });
}

function read(form) {
  const { path, operator, value } = form.elements;
  const condition = { path: path.value, operator: operator.value };
  if (value.disabled) return condition;
  const { type } = form.querySelector(".rest").dataset;
  const known = fields.find((field) => field.path === path.value).values.find((each) => String(each.value) === value.value);
  condition.value = known?.value ?? (type === "number" ? Number(value.value) : value.value); // 3 where it is a number
  return condition;
}
