// The body of a request: an editor for JSON, XML and text, fields for forms, a file for bytes.
import { h, unique } from "./dom.js";
import { field, isBinary } from "./fields.js";

const FORM = "application/x-www-form-urlencoded";
const MULTIPART = "multipart/form-data";

// {element, read}: read gives {body, type}; type undefined where the browser names it (multipart).
export function bodyEditor(schemas, requestBody) {
  const content = requestBody.content;
  const types = Object.keys(content);
  const place = h("div", {});
  let read = () => ({});
  const show = (type) => {
    const editor = make(schemas, type, content[type]);
    place.replaceChildren(editor.element);
    read = editor.read;
  };
  const id = unique("format");
  const choice = h("select", { id, onchange: () => show(choice.value) }, types.map((type) => h("option", {}, type)));
  show(types[0]);
  const element = h("div", {},
    h("div", { class: "choices" }, h("label", { for: id }, "Body as ", choice)), place);
  return { element, read: () => read() };
}

function make(schemas, type, media) {
  const schema = schemas.resolve(media.schema);
  if ((type === FORM || type === MULTIPART) && schema.properties) return form(schemas, type, media, schema);
  if (isBinary(schema) || type === "application/octet-stream") return bytes(type);
  return text(type, media);
}

function text(type, media) {
  const example = media.example ?? "";
  const shown = typeof example === "string" && !isJson(type) ? example : JSON.stringify(example, null, 2);
  const area = h("textarea", { rows: Math.min(18, Math.max(3, shown.split("\n").length)), spellcheck: false,
    "aria-label": `Body, ${type}` });
  area.value = shown;
  return { element: area, read: () => ({ body: area.value, type }) };
}

export const isJson = (type) => /[/+]json$/.test(type.split(";")[0].trim());

function bytes(type) {
  const id = unique("file");
  const input = h("input", { type: "file", id });
  const area = h("textarea", { rows: 2, "aria-label": "Body as text", placeholder: "or text" });
  const element = h("div", {}, h("div", { class: "field" }, h("label", { for: id }, "file"), input), area);
  return { element, read: () => ({ body: input.files[0] ?? area.value, type }) };
}

function form(schemas, type, media, schema) {
  const required = new Set(schema.required ?? []);
  const example = media.example ?? {};
  const fields = Object.entries(schema.properties).map(([name, one]) =>
    field(schemas, name, one, { required: required.has(name), example: example[name] }));
  const read = () => {
    const data = type === MULTIPART ? new FormData() : new URLSearchParams();
    for (const one of fields) {
      for (const value of [one.read()].flat()) if (value !== undefined) data.append(one.name, value);
    }
    return { body: data };
  };
  return { element: h("div", {}, fields.map((one) => one.row)), read };
}
