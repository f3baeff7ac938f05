// Elements made by name, and text that stays text: nothing of a document is ever read as HTML.

export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

// The paragraphs of a docstring, with its `code`.
export function prose(text) {
  const paragraphs = (text ?? "").trim().split(/\n\s*\n/).filter(Boolean);
  return h("div", { class: "text" }, paragraphs.map((one) => h("p", {}, inline(one))));
}

export function inline(text) {
  return (text ?? "").split(/``?([^`]+)``?/).map((part, index) => (index % 2 ? h("code", {}, part) : part));
}

let last = 0;
export const unique = (name) => `${name}-${++last}`;

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a page that came over plain HTTP from elsewhere has no clipboard
    const area = h("textarea", { class: "skip" }, text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

// The pattern of https://www.w3.org/WAI/ARIA/apg/patterns/tabs/: arrow keys go from tab to tab.
export function tabs(name, panels, extra) {
  const panel = h("div", { role: "tabpanel", id: unique("panel") });
  const buttons = Object.keys(panels).map((title) => h("button", {
    type: "button", role: "tab", id: unique("tab"), "aria-controls": panel.id, onclick: () => select(title),
  }, title));
  function select(title) {
    for (const button of buttons) {
      const chosen = button.textContent === title;
      button.setAttribute("aria-selected", String(chosen));
      button.tabIndex = chosen ? 0 : -1;
      if (chosen) panel.setAttribute("aria-labelledby", button.id);
    }
    panel.replaceChildren(panels[title]());
  }
  const list = h("div", { role: "tablist", "aria-label": name, onkeydown: (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = buttons.indexOf(document.activeElement);
    if (!step || at < 0) return;
    const next = buttons[(at + step + buttons.length) % buttons.length];
    next.focus();
    next.click();
  } }, buttons, extra ? extra(() => panel.textContent) : null);
  select(Object.keys(panels)[0]);
  return h("div", {}, list, panel);
}
