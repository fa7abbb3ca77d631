#!/usr/bin/env python3
"""Writes docs/reference/openapi.json from the relayer's routes and types, and docs/reference/calls.md from that.

scripts/openapi.py          writes both
scripts/openapi.py --check  writes nothing, fails if calls.md is out of date (a Rust test holds openapi.json to the types)
"""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENT = ROOT / "docs/reference/openapi.json"
PAGE = ROOT / "docs/reference/calls.md"
HEAD = """# Calls

Every call of the relayer's API with its fields, statuses and codes: a rendering of [openapi.json](openapi.json), which a
relayer serves at `/openapi.json`. Forms, errors and signatures are explained in [the HTTP API](api.md), codes in
[operations](../operations/README.md#codes). The examples come from a real run of `stipend dev`.
"""


def name_of(reference):
    return reference["$ref"].rsplit("/", 1)[1]


class Renderer:
    def __init__(self, document):
        self.document = document
        self.schemas = document["components"]["schemas"]

    def kind(self, schema):
        """The type in a few words, linked where it has a table of its own."""
        if "$ref" in schema:
            name = name_of(schema)
            return f"[{name}](#{name.lower()})"
        options = schema.get("oneOf", schema.get("anyOf"))
        if options:
            return " or ".join(self.kind(item) for item in options if item.get("type") != "null")
        kind = schema.get("type", "any JSON")
        kind = next(one for one in kind if one != "null") if isinstance(kind, list) else kind
        return f"list of {self.kind(schema['items'])}" if kind == "array" else kind

    def says(self, schema):
        if "oneOf" in schema:
            return next((self.says(item) for item in schema["oneOf"] if self.says(item)), schema.get("description", ""))
        return " ".join(schema.get("description", "").split()).replace("|", "\\|")

    def fields(self, schema):
        for part in schema.get("allOf", []):
            yield from self.fields(self.schemas[name_of(part)] if "$ref" in part else part)
        for name, field in schema.get("properties", {}).items():
            yield name, field, name in schema.get("required", [])

    def table(self, schema):
        yield "| field | type | |"
        yield "| --- | --- | --- |"
        for name, field, required in self.fields(schema):
            optional = "" if required else "optional. "
            yield f"| `{name}` | {self.kind(field)} | {optional}{self.says(field)} |"

    def parameters(self, operation):
        for parameter in operation.get("parameters", []):
            required = "" if parameter["required"] else "optional. "
            says = self.says(parameter)
            yield f"| `{parameter['name']}` | {parameter['in']}, {self.kind(parameter['schema'])} | {required}{says} |"

    def call(self, method, path, operation):
        yield f"### {method.upper()} {path}"
        yield ""
        yield operation["summary"] + "." + (" " + " ".join(operation["description"].split()) if "description" in operation else "")
        if "security" in operation:
            yield ""
            yield "Signed by ERC-8128."
        parameters = list(self.parameters(operation))
        if parameters:
            yield from ["", "| parameter | in | |", "| --- | --- | --- |", *parameters]
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        if body:
            what = self.kind(body["schema"]) if "$ref" in body["schema"] else operation["requestBody"]["description"]
            yield from ["", f"Takes {what}."]
        if "example" in body:
            yield from ["", "```json", json.dumps(body["example"], ensure_ascii=False), "```"]
        yield from ["", "| status | answer |", "| --- | --- |"]
        for status, response in operation["responses"].items():
            content = response.get("content", {})
            kinds = [self.kind(content[kind]["schema"]) for kind in content if kind == "application/json"]
            named = f": {kinds[0]}" if kinds and "[" in kinds[0] else ""
            yield f"| {status} | {' '.join(response['description'].split())}{named} |"
        example = next(
            (
                content["example"]
                for status, response in operation["responses"].items()
                for content in response.get("content", {}).values()
                if status.startswith("2") and "example" in content
            ),
            None,
        )
        if example is not None:
            yield from ["", "```json", json.dumps(example, ensure_ascii=False), "```"]
        yield ""

    def page(self):
        yield HEAD
        for tag in self.document["tags"]:
            yield f"## {tag['name'].capitalize()}"
            yield ""
            yield tag["description"] + "."
            yield ""
            for path, item in self.document["paths"].items():
                for method, operation in item.items():
                    if tag["name"] in operation["tags"]:
                        yield from self.call(method, path, operation)
        yield "## Types"
        yield ""
        for name, schema in self.schemas.items():
            yield f"### {name}"
            yield ""
            if "description" in schema:
                yield self.says(schema)
                yield ""
            if "enum" in schema:
                yield "One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + "."
                yield ""
            if "pattern" in schema:
                yield f"A string such as `{schema['examples'][0]}`."
                yield ""
            if "anyOf" in schema:
                yield f"Either {self.kind(schema)}."
                yield ""
            if any(True for _ in self.fields(schema)):
                yield from self.table(schema)
                yield ""


def main():
    check = sys.argv[1:] == ["--check"]
    if not check:
        test = ["cargo", "test", "--quiet", "--locked", "-p", "stipend-relayer", "--lib", "api::openapi"]
        subprocess.run(test, check=True, cwd=ROOT, env={**os.environ, "STIPEND_WRITE": "1"}, stdout=subprocess.DEVNULL)
    page = "\n".join(Renderer(json.loads(DOCUMENT.read_text())).page())
    if check and PAGE.read_text() != page:
        sys.exit("docs/reference/calls.md is out of date: run scripts/openapi.py")
    PAGE.write_text(page)


if __name__ == "__main__":
    main()
