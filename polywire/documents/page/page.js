// The page: loads the OpenAPI document that the hub makes of its contract, and shows it.
import { h, prose } from "./dom.js";
import { Schemas } from "./schema.js";
import { operationView } from "./operation.js";

const METHODS = ["get", "post", "put", "patch", "delete"];
const byId = (id) => document.getElementById(id);

class Page {
  constructor() {
    this.key = sessionStorage.getItem("polywire-key") ?? "";
    this.schemas = new Schemas({});
    this.server = "";
  }

  credentials() {
    return this.key ? { Authorization: `Bearer ${this.key}` } : {};
  }

  resolve(one) {
    if (!one?.$ref) return one;
    return one.$ref.slice(2).split("/").reduce((found, part) => found[part.replaceAll("~1", "/").replaceAll("~0", "~")], this.document);
  }

  async load() {
    let response;
    let found;
    try {
      response = await fetch("openapi.json", { headers: this.credentials() });
      found = await response.json();
    } catch (error) {
      return this.refuse({ detail: `The hub does not answer: ${error.message}` });
    }
    if (!response.ok) return this.refuse(found);
    this.document = found;
    this.schemas = new Schemas(found);
    this.server = found.servers?.[0]?.url ?? "";
    this.show();
  }

  refuse(problem) {
    byId("notice").textContent = `${problem.detail ?? "The document could not be loaded"}. ${problem.hint ?? ""}`;
    byId("operations").replaceChildren();
    byId("index").replaceChildren();
    byId("key").focus();
  }

  show() {
    const { info, paths = {}, tags = [] } = this.document;
    document.title = info.title;
    byId("title").textContent = info.title;
    byId("version").textContent = info.version;
    byId("description").replaceChildren(prose(info.description));
    const groups = new Map(tags.map((tag) => [tag.name, []]));
    for (const [path, item] of Object.entries(paths)) {
      for (const method of METHODS.filter((one) => item[one])) {
        const tag = item[method].tags?.[0] ?? "operations";
        groups.set(tag, [...(groups.get(tag) ?? []), [path, method, item[method]]]);
      }
    }
    const shown = [...groups].filter(([, operations]) => operations.length);
    byId("notice").textContent = shown.length ? "" : "There is nothing here that you may call.";
    byId("operations").replaceChildren(...shown.flatMap(([tag, operations]) => [
      h("h2", {}, tag), ...operations.map((one) => operationView(this, ...one))]));
    byId("index").replaceChildren(...shown.flatMap(([tag, operations]) => [
      h("h2", {}, tag), h("ul", {}, operations.map(([path, method, one]) => h("li", {}, link(path, method, one))))]));
    filter();
    open(location.hash.slice(1));
  }
}

function link(path, method, operation) {
  const verb = method.toUpperCase();
  const id = `op-${operation.operationId}`;
  return h("a", { href: `#${id}`, onclick: () => open(id) },
    h("span", { class: `method ${verb}` }, verb), h("span", {}, path.replace(/^\/operations\//, "")));
}

function open(id) {
  const found = document.getElementById(decodeURIComponent(id));
  if (!found?.matches("details.operation")) return;
  found.open = true;
  found.scrollIntoView();
  found.querySelector("summary").focus({ preventScroll: true });
}

function filter() {
  const wanted = byId("filter").value.trim().toLowerCase();
  for (const item of document.querySelectorAll("#index li")) {
    const target = document.getElementById(item.firstChild.getAttribute("href").slice(1));
    const hidden = !target.querySelector("summary").textContent.toLowerCase().includes(wanted);
    item.classList.toggle("hidden", hidden);
    target.classList.toggle("hidden", hidden);
  }
}

const page = new Page();
byId("key").value = page.key;
byId("filter").addEventListener("input", filter);
byId("access").addEventListener("submit", (event) => {
  event.preventDefault();
  page.key = byId("key").value.trim();
  sessionStorage.setItem("polywire-key", page.key);
  page.load();
});
window.addEventListener("hashchange", () => open(location.hash.slice(1)));
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input, textarea, select")) return;
  event.preventDefault();
  byId("filter").focus();
});
page.load();
