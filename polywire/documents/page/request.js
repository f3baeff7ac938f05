// From what was typed to a request, and what came back.
import { h } from "./dom.js";
import { isJson } from "./body.js";

// The folder that the hub is mounted on: this page is its "docs".
export const base = new URL(".", location.href).href.replace(/\/$/, "");

export function address(path, parameters) {
  const query = new URLSearchParams();
  let filled = path;
  for (const { place, name, value } of parameters) {
    if (value === undefined) continue;
    if (place === "path") filled = filled.replace(`{${name}}`, encodeURIComponent(value));
    if (place === "query") for (const one of [value].flat()) query.append(name, one);
  }
  const text = query.toString();
  return base + filled + (text ? `?${text}` : "");
}

// Where the response goes, and how: once it is there, or piece by piece as it comes.
export async function send(place, url, options) {
  const began = performance.now();
  const status = h("p", { class: "status", role: "status" }, "…");
  const rest = h("div", {});
  place.replaceChildren(status, rest);
  try {
    const response = await fetch(url, options);
    const line = (size) => status.replaceChildren(
      h("span", { class: response.ok ? "good" : "bad" }, `${response.status} ${response.statusText}`.trim()),
      ` · ${Math.round(performance.now() - began)} ms${size === undefined ? "" : ` · ${size} bytes`}`);
    line();
    const type = response.headers.get("content-type") ?? "";
    const headers = h("dl", {}, [...response.headers].map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
    const body = h("div", {});
    rest.append(h("details", {}, h("summary", {}, "Headers"), headers), body);
    if (/ndjson|event-stream/.test(type)) line(await follow(response, body));
    else line(await whole(response, type, body));
  } catch (error) {
    if (error.name === "AbortError") status.append(" · stopped");
    else status.replaceChildren(h("span", { class: "bad" }, `No answer: ${error.message}`));
  }
}

async function whole(response, type, place) {
  const content = await response.blob();
  if (!content.size) return 0;
  if (isJson(type)) place.append(h("pre", {}, h("code", {}, pretty(await content.text()))));
  else if (/^text\/|[/+]xml/.test(type)) place.append(h("pre", {}, h("code", {}, await content.text())));
  else place.append(h("a", { href: URL.createObjectURL(content), download: "body" }, "Save the body"));
  return content.size;
}

function pretty(text) {
  try {
    const value = JSON.parse(text);
    // Numbers that JavaScript cannot hold would be shown as others.
    return /\d{16}/.test(text) ? text : JSON.stringify(value, null, 2);
  } catch {
    return text;
  }
}

const MOST_LINES = 500;

async function follow(response, place) {
  const list = h("ol", { class: "log", "aria-live": "polite" });
  place.append(list);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    size += value.length;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.trim()) note(list, line);
  }
  if (rest.trim()) note(list, rest);
  return size;
}

export function note(list, line) {
  list.append(h("li", {}, line));
  while (list.childNodes.length > MOST_LINES) list.firstChild.remove();
  list.scrollTop = list.scrollHeight;
}
