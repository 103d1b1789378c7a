"""Hooks of schemathesis, for test_openapi.py: aims what it makes up at the model that is served, and
keeps generations short. What is wrong stays wrong."""

import os

import schemathesis

MODEL = os.environ["SCONCE_MODEL"]
MAX_TOKENS = 2
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


@schemathesis.hook
def before_call(context, case, kwargs):
    body = case.body
    if not isinstance(body, dict):
        return
    if isinstance(body.get("model"), str) and len(body["model"]) <= 256:
        body["model"] = MODEL
    for limit in LIMITS:
        if isinstance(body.get(limit), int) and MAX_TOKENS < body[limit] < 2**32:
            body[limit] = MAX_TOKENS
    # Without a limit, an answer goes on until the model ends it.
    if case.operation.path in ("/v1/chat/completions", "/v1/completions"):
        if all(body.get(limit) is None for limit in LIMITS):
            body["max_tokens"] = MAX_TOKENS
    if case.operation.path == "/v1/responses" and body.get("max_output_tokens") is None:
        body["max_output_tokens"] = MAX_TOKENS
