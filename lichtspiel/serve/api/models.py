"""Routes for the models that this server offers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from lichtspiel.errors import RequestError
from lichtspiel.request import MAX_PROMPT
from lichtspiel.serve.api.body import PROPERTIES, READING, Fields, Uploads, handled
from lichtspiel.serve.api.form import lora_files
from lichtspiel.serve.api.objects import model_object
from lichtspiel.serve.api.schemas import MODEL, MODELS, READ, answers
from lichtspiel.serve.api.state import OwnerDep, Server, ServerDep
from lichtspiel.spec import model as find
from lichtspiel.toybox.knowledge import LEARNED, reading

__all__ = ["router"]

router = APIRouter(tags=["models"])


@router.get("/v1/models", responses=answers(MODELS))
def list_models(server: ServerDep, _: OwnerDep) -> dict[str, Any]:
    """List the models on offer, the LoRA that requests may name, and the fields of a request, as JSON schemas."""
    states = [*server.workers.values()]
    data = [model_object(find(name), states) for name in server.settings.models]
    loras = [path.stem for path in lora_files(server.settings)]
    return {"object": "list", "data": data, "options": PROPERTIES, "loras": loras}


@router.get("/v1/models/{name}", responses=answers(MODEL))
def get_model(name: str, server: ServerDep, _: OwnerDep) -> dict[str, Any]:
    """Get one model with its sizes, limits and defaults."""
    _check_offered(server, name)
    return model_object(find(name), [*server.workers.values()])


@router.post("/v1/models/{name}/reading", openapi_extra=READING, responses=answers(READ))
async def read_prompt(name: str, request: Request, server: ServerDep, _: OwnerDep) -> dict[str, Any]:
    """Say what a model that knows few subjects reads in a prompt, before anything is made. Nothing is kept."""
    _check_offered(server, name)

    def work(fields: Fields, _: Uploads) -> dict[str, Any]:
        prompt = fields.get("prompt")
        if not isinstance(prompt, str) or len(prompt) > MAX_PROMPT:
            raise RequestError("prompt", prompt, f"it is text of at most {MAX_PROMPT} characters")
        if name not in LEARNED:
            raise RequestError("model", name, "it has no list of what it knows")
        return reading(prompt, LEARNED[name])

    return await handled(request, work)


def _check_offered(server: Server, name: str) -> None:
    if name not in server.settings.models:
        raise RequestError("model", name, f"this server has {', '.join(server.settings.models)}")
