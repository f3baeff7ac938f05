// JSON Schemas as people read them.
import { h, inline } from "./dom.js";

export class Schemas {
  constructor(document) {
    this.named = document.components?.schemas ?? {};
  }

  // What a reference stands for; of "T or null" the T; of several in one, all of them together.
  resolve(schema) {
    let found = schema ?? {};
    for (let step = 0; found.$ref && step < 20; step++) found = this.named[nameOf(found.$ref)] ?? {};
    const some = (found.anyOf ?? found.oneOf)?.filter((one) => one.type !== "null");
    if (some?.length === 1) return { ...this.resolve(some[0]), default: found.default };
    return found.allOf ? found.allOf.map((one) => this.resolve(one)).reduce(together) : found;
  }

  // In one line: "integer, ≥ 1", "array of Item", "Circle | Rectangle".
  type(schema) {
    if (schema === true || !schema || !Object.keys(schema).some((key) => !SAYS_NOTHING.has(key))) return "anything";
    if (schema === false) return "nothing";
    if (schema.$ref) {
      const found = this.named[nameOf(schema.$ref)] ?? {};
      return found.enum || "const" in found ? this.type(found) : nameOf(schema.$ref);
    }
    if ("const" in schema) return JSON.stringify(schema.const);
    if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
    const some = schema.anyOf ?? schema.oneOf;
    if (some) return some.map((one) => this.type(one)).join(" | ");
    if (schema.allOf) return this.type(schema.allOf[0]);
    return [this.#plain(schema), ...(schema.prefixItems ? [] : bounds(schema))].join(", ");
  }

  #plain(schema) {
    if (schema.contentEncoding) return "bytes in base64";
    const type = Array.isArray(schema.type) ? schema.type.join(" | ") : schema.type ?? "anything";
    if (type === "array") return this.#array(schema);
    return type === "object" ? this.#object(schema) : schema.format ?? type;
  }

  #array(schema) {
    if (schema.prefixItems) return `[${schema.prefixItems.map((one) => this.type(one)).join(", ")}]`;
    const item = this.type(schema.items);
    return `${schema.uniqueItems ? "set" : "array"} of ${/[,|]/.test(item) ? `(${item})` : item}`;
  }

  #object(schema) {
    const values = schema.additionalProperties;
    return !schema.properties && values && values !== true ? `object of ${this.type(values)}` : schema.title ?? "object";
  }

  // A tree that unfolds where a type has fields of its own; what contains itself unfolds as long as it is asked to.
  view(schema) {
    return h("ul", { class: "schema" }, this.#row("", schema, false, true));
  }

  #row(name, schema, required, open = false) {
    const line = [
      name ? h("span", { class: required ? "name required" : "name", title: required ? "required" : "" }, name) : null,
      " ", h("span", { class: "type" }, this.type(schema)),
      schema.default !== undefined ? h("span", { class: "quiet" }, ` = ${JSON.stringify(schema.default)}`) : null,
      schema.description ? h("span", {}, " – ", inline(schema.description)) : null,
    ];
    const inner = this.#parts(schema);
    if (!inner.length) return h("li", {}, line);
    const list = h("ul", {});
    const fill = () => list.childNodes.length || list.append(...inner.map((part) => this.#row(...part)));
    if (open) fill();
    return h("li", {}, h("details", { open, ontoggle: fill }, h("summary", {}, line), list));
  }

  // [name, schema, required] of what is inside.
  #parts(schema) {
    const some = schema.anyOf ?? schema.oneOf;
    if (some && !schema.$ref) return some.filter((one) => this.#parts(one).length).map((one) => ["", one, false]);
    const found = this.resolve(schema);
    if (found.properties) {
      const required = new Set(found.required ?? []);
      return Object.entries(found.properties).map(([name, one]) => [name, one, required.has(name)]);
    }
    const members = found.anyOf ?? found.oneOf;
    if (members) return members.filter((one) => this.#parts(one).length).map((one) => ["", one, false]);
    const items = found.items && found.items !== true && !found.prefixItems ? found.items : null;
    const values = typeof found.additionalProperties === "object" ? found.additionalProperties : null;
    if (items && this.#parts(items).length) return [["each", items, false]];
    return values && this.#parts(values).length ? [["each", values, false]] : [];
  }
}

const SAYS_NOTHING = new Set(["default", "description", "examples", "readOnly", "title", "xml"]);

const together = (one, other) => ({
  ...one, ...other, title: one.title, properties: { ...one.properties, ...other.properties },
  required: [...(one.required ?? []), ...(other.required ?? [])] });

const nameOf = (reference) => decodeURIComponent(reference.slice(reference.lastIndexOf("/") + 1));

function bounds(schema) {
  const said = [];
  const say = (key, text) => schema[key] !== undefined && said.push(text(schema[key]));
  say("minimum", (n) => `≥ ${n}`);
  say("exclusiveMinimum", (n) => `> ${n}`);
  say("maximum", (n) => `≤ ${n}`);
  say("exclusiveMaximum", (n) => `< ${n}`);
  say("multipleOf", (n) => `multiple of ${n}`);
  for (const kind of ["Length", "Items", "Properties"]) {
    const unit = { Length: "long", Items: "items", Properties: "members" }[kind];
    say(`min${kind}`, (n) => `at least ${n} ${unit}`);
    say(`max${kind}`, (n) => `at most ${n} ${unit}`);
  }
  // Where a format or an encoding has a name, its pattern says no more to people.
  if (!schema.format && !schema.contentEncoding) say("pattern", (text) => `like ${text}`);
  return said;
}
