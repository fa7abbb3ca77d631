"""A language model that follows a script, behind OpenAI's HTTP API: chat completions and responses.

Frameworks talk to it by their own model clients, unmodified. It does with the tools what a sensible model would: it
looks at the budget, pays as the task says, and tells what came of it.
"""

import functools
import http.server
import itertools
import json
import re
import threading

TASK = re.compile(r"Pay (?P<amount>\S+) USDC to (?P<payee>0x\w{40}) for (?P<reference>[^.\n]+)\.")
CODE = re.compile(r"insufficient_budget|above_per_payment|payee_not_allowed|no_mandate")


class BadRequest(Exception):
    """What the API would refuse."""


def require(holds, message):
    if not holds:
        raise BadRequest(message)


def next_move(task, tools, answers):
    """The tool to call with its arguments, or the final words. `answers` are those of the tools so far."""
    look = next((name for name in tools if name.endswith(("budget", "wallet_balance"))), None)
    pay = next((name for name in tools if name.endswith(("pay", "payment_execute"))), None)
    require(look and pay, f"the wallet is not among the tools: {sorted(tools)}")
    if not answers:
        return look, {}
    if len(answers) == 1:
        wanted = TASK.search(task)
        require(wanted, f"no task: {task}")
        arguments = wanted.groupdict()
        if "mandate" in tools[pay]["required"] and not is_nullable(tools[pay]["properties"]["mandate"]):
            arguments["mandate"] = re.search(r"mand_[0-9a-f]{64}", answers[0])[0]
        return pay, arguments
    refused = CODE.search(answers[-1])
    return f"Refused: {refused[0]}." if refused else f"Paid: {re.search(r'pay_[0-9a-f]{32}', answers[-1])[0]}."


def is_nullable(schema):
    return "null" in schema.get("type", []) or any(is_nullable(option) for option in schema.get("anyOf", []))


def check_tool(name, schema, strict):
    """What OpenAI's API demands of a function."""
    require(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name), f"the tool's name: {name}")
    require(schema.get("type") == "object", f"the parameters of {name}: {schema}")
    for reference in re.findall(r"#/([^\"]+)", json.dumps(schema)):
        target = functools.reduce(lambda node, key: (node or {}).get(key), reference.split("/"), schema)
        require(target is not None, f"{name} refers to #/{reference}, which is not there")
    if strict:
        properties = schema.get("properties", {})
        require(schema.get("additionalProperties") is False, f"{name} is strict and open to more")
        require(sorted(schema.get("required", [])) == sorted(properties), f"{name} is strict and has optional fields")


def complete(schema, arguments):
    """A model gives every field that a strict schema has."""
    for field, kind in schema.get("properties", {}).items():
        if field in schema.get("required", []) and field not in arguments:
            require(is_nullable(kind) or "enum" in kind, f"nothing to give for {field}: {kind}")
            arguments[field] = None if is_nullable(kind) else kind["enum"][0]
    return arguments


def text_of(content):
    """Content is a string or a list of parts."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or [])


class ScriptedModel(http.server.ThreadingHTTPServer):
    """Serves on a free port of loopback. `refused` says why it refused what the real API would refuse too."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.key = "sk-scripted"
        self.ids = itertools.count(1)
        self.refused = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def move(self, task, tools, answers):
        """The next move, as the id of a call, its tool and its arguments; or as words."""
        for name, (schema, strict) in tools.items():
            check_tool(name, schema, strict)
        move = next_move(task, {name: schema for name, (schema, _) in tools.items()}, answers)
        if isinstance(move, str):
            return None, move, None
        name, arguments = move
        return f"call_{next(self.ids)}", name, json.dumps(complete(tools[name][0], arguments))

    def chat_completion(self, body):
        tools = {
            tool["function"]["name"]: (tool["function"].get("parameters", {}), tool["function"].get("strict"))
            for tool in body.get("tools", [])
        }
        task = "\n".join(text_of(message["content"]) for message in body["messages"] if message["role"] == "user")
        called = [call["id"] for message in body["messages"] for call in message.get("tool_calls") or []]
        results = [message for message in body["messages"] if message["role"] == "tool"]
        require([result["tool_call_id"] for result in results] == called, "each call has one answer, in order")
        call, text, arguments = self.move(task, tools, [text_of(result["content"]) for result in results])
        message = {"role": "assistant", "content": None if call else text, "refusal": None}
        if call:
            function = {"name": text, "arguments": arguments}
            message["tool_calls"] = [{"id": call, "type": "function", "function": function}]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls" if call else "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        answer = {"id": f"chatcmpl-{next(self.ids)}", "object": "chat.completion", "created": 0, "model": body["model"]}
        return {**answer, "choices": [choice], "usage": usage}

    def response(self, body):
        tools = {tool["name"]: (tool["parameters"], tool.get("strict")) for tool in body.get("tools", [])}
        items = body["input"] if isinstance(body["input"], list) else [{"role": "user", "content": body["input"]}]
        task = "\n".join(text_of(item["content"]) for item in items if item.get("role") == "user")
        called = [item["call_id"] for item in items if item.get("type") == "function_call"]
        results = [item for item in items if item.get("type") == "function_call_output"]
        require([result["call_id"] for result in results] == called, "each call has one answer, in order")
        call, text, arguments = self.move(task, tools, [text_of(result["output"]) for result in results])
        if call:
            item = {"type": "function_call", "call_id": call, "name": text, "arguments": arguments}
        else:
            words = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
            item = {"type": "message", "role": "assistant", "content": [words]}
        item = {"id": f"item_{next(self.ids)}", "status": "completed", **item}
        details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        return {
            "id": f"resp_{next(self.ids)}",
            "object": "response",
            "created_at": 0,
            "status": "completed",
            "model": body["model"],
            "output": [item],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": body.get("tools", []),
            "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2, **details},
        }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        ways = {"/v1/chat/completions": self.server.chat_completion, "/v1/responses": self.server.response}
        try:
            require(self.path in ways, f"no such path: {self.path}")
            require(self.headers["authorization"] == f"Bearer {self.server.key}", "not the key")
            require(not body.get("stream"), "the script does not stream")
            status, answer = 200, ways[self.path](body)
        except Exception as error:
            self.server.refused.append(repr(error))
            status, answer = 400, {"error": {"message": str(error), "type": "invalid_request_error", "code": None}}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass
