// One operation: what it is, how it is called from elsewhere, and a form to call it here.
import { h, prose, tabs, copy } from "./dom.js";
import { field } from "./fields.js";
import { bodyEditor } from "./body.js";
import { address, base, note, send } from "./request.js";

const EVENTS = "text/event-stream";

export function operationView(page, path, method, operation) {
  const id = `op-${operation.operationId}`;
  const verb = method.toUpperCase();
  const body = h("div", { class: "body" });
  const fill = () => body.childNodes.length || body.append(...parts(page, path, verb, operation));
  return h("details", { class: "operation", id, ontoggle: fill },
    h("summary", {}, h("span", { class: `method ${verb}` }, verb), h("h3", {}, path),
      h("span", { class: "quiet" }, operation.summary ?? "")),
    body);
}

function parts(page, path, verb, operation) {
  const about = prose(operation.description && operation.description !== operation.summary ? operation.description : "");
  const trial = onlyEvents(verb, operation) ? watch(page, path, operation) : trying(page, path, verb, operation);
  return [h("div", {}, about, trial), h("div", {}, snippets(page, operation), answers(page, operation))];
}

const success = (operation) => Object.entries(operation.responses).find(([status]) => status.startsWith("2"))?.[1];

function onlyEvents(verb, operation) {
  const types = Object.keys(success(operation)?.content ?? {});
  return verb === "GET" && types.length === 1 && types[0] === EVENTS;
}

function parameters(page, operation, places = ["path", "query", "header"]) {
  const known = (operation.parameters ?? []).map((one) => page.resolve(one)).filter((one) => places.includes(one.in));
  const make = (one) => ({ place: one.in, ...field(page.schemas, one.name, one.schema ?? {}, {
    required: one.required, description: one.description, example: one.example }) });
  const own = known.filter((one) => one.in !== "header").map(make);
  const headers = known.filter((one) => one.in === "header").map(make);
  const element = h("div", {},
    own.length ? [h("h4", {}, "Parameters"), own.map((one) => one.row)] : null,
    headers.length ? h("details", {}, h("summary", { class: "quiet" }, "Request headers"), headers.map((one) => one.row)) : null);
  const read = () => [...own, ...headers].map(({ place, name, read: value }) => ({ place, name, value: value() }));
  return { element, read };
}

function trying(page, path, verb, operation) {
  const given = parameters(page, operation);
  const editor = operation.requestBody ? bodyEditor(page.schemas, page.resolve(operation.requestBody)) : null;
  const accept = acceptChoice(operation);
  const place = h("div", { class: "response hidden" });
  let leaving = null;
  const stop = h("button", { type: "button", disabled: true, onclick: () => leaving?.abort() }, "Stop");
  const form = h("form", { onsubmit: async (event) => {
    event.preventDefault();
    leaving?.abort();
    const mine = leaving = new AbortController();
    place.classList.remove("hidden");
    stop.disabled = false;
    const values = given.read();
    const { body, type } = editor?.read() ?? {};
    const headers = { ...page.credentials() };
    for (const one of values) if (one.place === "header" && one.value) headers[one.name] = one.value;
    if (accept?.value()) headers.Accept = accept.value();
    if (type) headers["Content-Type"] = type;
    await send(place, address(path, values), { method: verb, headers, body, signal: mine.signal });
    if (leaving === mine) stop.disabled = true;
  } },
  given.element, editor ? [h("h4", {}, "Body"), editor.element] : null, accept?.element,
  h("div", { class: "actions" }, h("button", { class: "send" }, "Send"), stop), place);
  return form;
}

function acceptChoice(operation) {
  const types = Object.keys(success(operation)?.content ?? {}).filter((type) => type !== EVENTS);
  if (types.length < 2) return null;
  const select = h("select", {}, types.map((type) => h("option", {}, type)));
  return { element: h("div", { class: "choices" }, h("label", {}, "Answer as ", select)), value: () => select.value };
}

// A stream that a browser follows, and takes up again by itself. An EventSource cannot set headers.
function watch(page, path, operation) {
  const given = parameters(page, operation, ["path", "query"]);
  const status = h("p", { class: "status", role: "status" });
  const list = h("ol", { class: "log", "aria-live": "polite" });
  let source = null;
  const button = h("button", { type: "button", class: "send", onclick: () => (source ? end() : begin()) }, "Watch");
  function begin() {
    const values = given.read();
    if (page.key) values.push({ place: "query", name: "api_key", value: page.key });
    list.replaceChildren();
    status.textContent = "connecting …";
    button.textContent = "Stop";
    source = new EventSource(address(path, values));
    source.onopen = () => (status.textContent = "watching");
    source.onerror = () => (status.textContent = source.readyState === EventSource.CLOSED ? "refused" : "connecting again …");
    source.onmessage = (event) => note(list, event.data);
    for (const kind of ["binary", "reset"]) source.addEventListener(kind, (event) => note(list, `${kind}: ${event.data}`));
  }
  function end() {
    source.close();
    source = null;
    status.textContent = "stopped";
    button.textContent = "Watch";
  }
  return h("div", {}, given.element, h("div", { class: "actions" }, button), h("div", { class: "response" }, status, list));
}

function snippets(page, operation) {
  const samples = operation["x-codeSamples"] ?? [];
  if (!samples.length) return null;
  const here = (source) => source.replaceAll(page.server, base);
  const panels = Object.fromEntries(samples.map((one) => [one.label, () => h("pre", { tabIndex: 0 }, h("code", {}, here(one.source)))]));
  const extra = (text) => {
    const button = h("button", { type: "button", class: "copy", onclick: async () => {
      await copy(text());
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    } }, "Copy");
    return button;
  };
  return [h("h4", {}, "From elsewhere"), tabs("Language", panels, extra)];
}

function answers(page, operation) {
  const request = operation.requestBody ? page.resolve(operation.requestBody) : null;
  const taken = request ? Object.values(request.content)[0].schema : null;
  const all = Object.entries(operation.responses).map(([status, one]) => [status, page.resolve(one)]);
  const good = all.filter(([status]) => status < "400");
  const bad = all.filter(([status]) => status >= "400");
  return [
    taken ? [h("h4", {}, "It takes"), page.schemas.view(taken)] : null,
    h("h4", {}, "It answers"),
    h("div", { class: "answers" }, good.map(([status, one], index) => answer(page, status, one, index === 0)),
      bad.length ? h("details", {}, h("summary", { class: "quiet" }, "Errors"), bad.map(([status, one]) => answer(page, status, one, false))) : null),
  ];
}

function answer(page, status, response, open) {
  const content = Object.entries(response.content ?? {});
  const title = [h("b", {}, status), " ", h("span", {}, response.description ?? "")];
  if (!content.length) return h("p", {}, title);
  const told = content[0][1].schema ?? {};
  const schema = content[0][0] === EVENTS ? told.properties.data.contentSchema ?? {} : told;
  return h("details", { open }, h("summary", {}, title),
    h("p", { class: "quiet mono" }, content.map(([type]) => type).join(", ")), page.schemas.view(schema));
}
