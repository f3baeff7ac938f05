// One input for one value of a schema, and what it says.
import { h, inline, unique } from "./dom.js";

// {row, read, files}: the element; its text (a list where several were given), undefined if nothing was.
export function field(schemas, name, schema, { required = false, description, example } = {}) {
  const type = schemas.resolve(schema);
  const id = unique("field");
  const input = control(schemas, type, { id, required, example: example ?? type.default ?? schema.default });
  const hint = [schemas.type(schema), description ?? schema.description].filter(Boolean);
  const row = h("div", { class: "field" },
    h("label", { for: id, class: required ? "required" : "" }, name),
    input.element,
    h("small", {}, h("span", { class: "mono" }, hint[0]), hint[1] ? [" – ", inline(hint[1])] : ""));
  return { name, row, read: input.read, required };
}

function control(schemas, type, { id, required, example }) {
  const values = type.enum ?? ("const" in type ? [type.const] : type.type === "boolean" ? [true, false] : null);
  if (values) return select(id, values, required, example);
  if (isBinary(type)) return file(id);
  if (type.type === "array") return several(id, example);
  const text = example === undefined || example === null ? "" : typeof example === "object" ? JSON.stringify(example) : String(example);
  const input = h("input", { id, type: "text", value: required ? text : "", placeholder: text, spellcheck: false, autocomplete: "off" });
  return { element: input, read: () => (input.value === "" && !required ? undefined : input.value) };
}

export const isBinary = (type) => Boolean(type.contentEncoding) || type.format === "binary" || type.contentMediaType === "application/octet-stream";

function select(id, values, required, example) {
  const options = values.map((one) => h("option", { value: String(one), selected: required && one === example }, String(one)));
  const element = h("select", { id }, required ? null : h("option", { value: "" }, "–"), options);
  return { element, read: () => (element.value === "" && !required ? undefined : element.value) };
}

function file(id) {
  const element = h("input", { id, type: "file" });
  return { element, read: () => element.files[0] };
}

function several(id, example) {
  const text = Array.isArray(example) ? example.map((one) => (typeof one === "object" ? JSON.stringify(one) : String(one))).join("\n") : "";
  const element = h("textarea", { id, rows: 2, placeholder: "one on each line", spellcheck: false }, text);
  return { element, read: () => {
    const lines = element.value.split("\n").filter((line) => line !== "");
    return lines.length ? lines : undefined;
  } };
}
