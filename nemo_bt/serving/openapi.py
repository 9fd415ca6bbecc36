"""The routes as /openapi.json describes them: handlers read bodies themselves, so FastAPI does not know of them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

_STATUSES = {
    401: "bears no token, or another one",
    404: "names another model",
    408: "comes too slowly",
    413: "is too large",
    422: "is malformed, or cannot be scored",
    503: "is one too many",
    504: "waited too long",
}
"""What is wrong with a request."""
_DETAIL = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}


def described(kind: type[BaseModel]) -> dict[str, Any]:
    """Give what FastAPI is told of a route beside its path: the schema of its body, and its statuses.

    Definitions of a schema stand in it, so references begin at the body.
    """
    schema = _resolved(kind.model_json_schema())
    errors: dict[int | str, dict[str, Any]] = {
        status: {"description": f"The request {why}.", "content": {"application/json": {"schema": _DETAIL}}}
        for status, why in _STATUSES.items()
    }
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"responses": errors, "openapi_extra": {"requestBody": body}}


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Put definitions where they are referred to; none of ours refers to itself."""
    definitions = {f"#/$defs/{name}": one for name, one in schema.pop("$defs", {}).items()}

    def resolved(part: Any) -> Any:
        if isinstance(part, dict):
            return resolved(definitions[part["$ref"]]) if "$ref" in part else {k: resolved(v) for k, v in part.items()}
        return [resolved(one) for one in part] if isinstance(part, list) else part

    found: dict[str, Any] = resolved(schema)
    return found
