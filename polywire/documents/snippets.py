"""The same request in the words of curl, Python (requests) and JavaScript (fetch), to be copied and run.

A `Sample` is a request with its values; what makes one of a declared operation or topic is beside its description
(`polywire.documents.samples`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, urlencode

__all__ = ["FilePart", "Sample", "snippets"]

Answer = Literal["json", "bytes", "nothing", "lines", "events"]
_WIDTH = 88
_LINES = "application/x-ndjson"


class FilePart(NamedTuple):
    """A file in a form: text, so that it can be shown."""

    name: str
    file_name: str
    content: str
    content_type: str = "text/plain"


class Sample(NamedTuple):
    """A request. At most one of ``json``, ``text`` and ``files`` is its body; ``fields`` are those of the form around
    ``files``. ``key``: whether it must say an API key. ``answer``: what comes back, and so how it is read."""

    method: str
    url: str
    query: Sequence[tuple[str, str]] = ()
    headers: Sequence[tuple[str, str]] = ()
    json: Any = ...
    text: str | None = None
    files: Sequence[FilePart] = ()
    fields: Sequence[tuple[str, str]] = ()
    key: bool = False
    answer: Answer = "json"


def snippets(sample: Sample) -> dict[str, str]:
    """``{"curl", "python", "javascript"}``. The API key is read from POLYWIRE_KEY."""
    return {"curl": _curl(sample), "python": _python(sample), "javascript": _javascript(sample)}


def _full_url(sample: Sample) -> str:
    return sample.url + (f"?{urlencode(sample.query, quote_via=quote)}" if sample.query else "")


def _accepting(sample: Sample) -> list[tuple[str, str]]:
    accept = [("Accept", _LINES)] if sample.answer == "lines" else []
    return [*sample.headers, *accept]


# --- curl ------------------------------------------------------------------------------------------------------------


def _curl(sample: Sample) -> str:
    has_body = sample.json is not ... or sample.text is not None or bool(sample.files)
    parts = [f"curl{_curl_method(sample.method, has_body=has_body)}{_curl_flags(sample)} {_quoted(_full_url(sample))}"]
    if sample.key:
        parts.append('-H "Authorization: Bearer $POLYWIRE_KEY"')
    parts += [f"-H {_quoted(f'{name}: {value}')}" for name, value in _accepting(sample)]
    if sample.json is not ...:
        parts += ["-H 'Content-Type: application/json'", f"-d {_quoted(json.dumps(sample.json, ensure_ascii=False))}"]
    if sample.text is not None:
        parts.append(f"--data-binary {_quoted(sample.text)}")
    for name, value in sample.fields:
        parts.append(f"--form-string {_quoted(f'{name}={value}')}")
    for file in sample.files:
        shown = f"{file.name}={file.content};filename={file.file_name};type={file.content_type}"
        parts.append(f"-F {_quoted(shown)}")
    return " \\\n  ".join(parts)


def _curl_method(method: str, *, has_body: bool) -> str:
    return "" if method == ("POST" if has_body else "GET") else f" -X {method}"


def _curl_flags(sample: Sample) -> str:
    if sample.answer in ("lines", "events"):
        return " -N"
    return " --output answer.bin" if sample.answer == "bytes" else ""


def _quoted(text: str) -> str:
    """Always in quotes: a URL has characters that some shells take for their own."""
    return "'" + text.replace("'", "'\"'\"'") + "'" if shlex.quote(text) == text or "'" in text else shlex.quote(text)


# --- Python ----------------------------------------------------------------------------------------------------------


def _python(sample: Sample) -> str:
    streams = sample.answer in ("lines", "events")
    given = _python_arguments(sample)
    if streams:
        given.append("stream=True")
    call = _python_call(f"requests.{sample.method.lower()}", [_python_value(sample.url), *given])
    imports = (["import json"] if streams else []) + (["import os"] if sample.key else [])
    head = "\n".join([*imports, "", "import requests"]).lstrip("\n")
    body = _python_stream(call, sample.answer) if streams else _python_whole(call, sample.answer)
    return f"{head}\n\n{body}"


def _python_arguments(sample: Sample) -> list[str]:
    given = []
    if sample.query:
        given.append(f"params={_python_value(_gathered(sample.query))}")
    headers = [f"{_python_value(name)}: {_python_value(value)}" for name, value in _accepting(sample)]
    if sample.key:
        headers.append('"Authorization": f"Bearer {os.environ[\'POLYWIRE_KEY\']}"')
    if headers:
        given.append(f"headers={{{', '.join(headers)}}}")
    if sample.json is not ...:
        given.append(f"json={_python_value(sample.json)}")
    if sample.text is not None:
        given.append(f"data={_python_value(sample.text)}")
    if sample.fields:
        given.append(f"data={_python_value(_gathered(sample.fields))}")
    if sample.files:
        files = {file.name: (file.file_name, file.content, file.content_type) for file in sample.files}
        given.append(f"files={_python_value(files)}")
    return given


def _gathered(pairs: Sequence[tuple[str, str]]) -> dict[str, str | list[str]]:
    """By name; a name that repeats has a list."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _python_value(value: Any) -> str:
    """A literal; strings as JSON writes them, which Python reads alike."""
    match value:
        case str():
            return json.dumps(value, ensure_ascii=False)
        case dict():
            return _enclosed("{}", [f"{_python_value(name)}: {_python_value(one)}" for name, one in value.items()])
        case list():
            return _enclosed("[]", [_python_value(one) for one in value])
        case tuple():
            return _enclosed("()", [_python_value(one) for one in value])
    return repr(value)


def _enclosed(brackets: str, items: list[str]) -> str:
    line = brackets[0] + ", ".join(items) + brackets[1]
    if len(line) <= _WIDTH and "\n" not in line:
        return line
    return _in_lines(brackets, items)


def _in_lines(brackets: str, items: list[str]) -> str:
    indented = [item.replace("\n", "\n    ") for item in items]
    return f"{brackets[0]}\n    " + ",\n    ".join(indented) + f",\n{brackets[1]}"


def _python_call(function: str, arguments: list[str]) -> str:
    """How it is broken does not depend on the length of the URL: a document may be moved to another one."""
    if len(arguments) == 1:
        return f"{function}({arguments[0]})"
    return function + _in_lines("()", arguments)


def _python_whole(call: str, answer: Answer) -> str:
    shown = {"json": "response.json()", "bytes": "response.content", "nothing": "response.status_code"}[answer]
    return f"response = {call}\nresponse.raise_for_status()\nprint({shown})"


def _python_stream(call: str, answer: Answer) -> str:
    lines = ["    if line:", "        print(json.loads(line))"]
    if answer == "events":
        lines = ['    if line.startswith(b"data:"):', "        print(json.loads(line[5:]))"]
    body = "\n".join(
        f"    {line}" for line in ["response.raise_for_status()", "for line in response.iter_lines():", *lines]
    )
    return f"with {call} as response:\n{body}"


# --- JavaScript ------------------------------------------------------------------------------------------------------


def _javascript(sample: Sample) -> str:
    if sample.answer == "events":
        return _javascript_events(sample)
    lines = []
    if sample.files:
        lines.append("const form = new FormData();")
        lines += [f"form.append({_js(name)}, {_js(value)});" for name, value in sample.fields]
        for file in sample.files:
            content = f"new Blob([{_js(file.content)}], {{ type: {_js(file.content_type)} }})"
            lines.append(f"form.append({_js(file.name)}, {content}, {_js(file.file_name)});")
        lines.append("")
    options = _javascript_options(sample)
    given = f", {{\n{options}}}" if options else ""
    lines.append(f"const response = await fetch({_js(_full_url(sample))}{given});")
    lines.append("if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);")
    lines.append(_JAVASCRIPT_ANSWERS[sample.answer])
    return "\n".join(lines)


_JAVASCRIPT_ANSWERS: dict[str, str] = {
    "json": "console.log(await response.json());",
    "bytes": "console.log(new Uint8Array(await response.arrayBuffer()));",
    "nothing": "console.log(response.status);",
    "lines": """\
let rest = "";
for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
  const lines = (rest + piece).split("\\n");
  rest = lines.pop();
  for (const line of lines) console.log(JSON.parse(line));
}""",
}


def _javascript_options(sample: Sample) -> str:
    options = [] if sample.method == "GET" else [f"method: {_js(sample.method)}"]
    headers = [f"{_js(name)}: {_js(value)}" for name, value in _accepting(sample)]
    if sample.json is not ...:
        headers.append('"Content-Type": "application/json"')
    if sample.key:
        headers.append("Authorization: `Bearer ${process.env.POLYWIRE_KEY}`")
    if headers:
        options.append(f"headers: {{ {', '.join(headers)} }}")
    if sample.json is not ...:
        options.append(f"body: JSON.stringify({_js(sample.json)})")
    if sample.text is not None:
        options.append(f"body: {_js(sample.text)}")
    if sample.files:
        options.append("body: form")
    return "".join(f"  {option},\n" for option in options)


def _javascript_events(sample: Sample) -> str:
    """An EventSource cannot set headers: the key stands in the URL."""
    url = _js(_full_url(sample))
    if sample.key:
        mark = "&" if sample.query else "?"
        url = f"`{_full_url(sample)}{mark}api_key=${{process.env.POLYWIRE_KEY}}`"
    return (
        f"const events = new EventSource({url});\n"
        "events.onmessage = (event) => console.log(event.data);\n"
        'events.onerror = () => console.error("the connection was lost; it is made again");'
    )


def _js(value: Any) -> str:
    """JSON is JavaScript (ECMA-262 since 2019)."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= _WIDTH:
        return text
    return json.dumps(value, ensure_ascii=False, indent=2).replace("\n", "\n  ")
