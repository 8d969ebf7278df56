"""Routes for the models that this server offers."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from lichtspiel.errors import RequestError
from lichtspiel.serve.api.body import PROPERTIES
from lichtspiel.serve.api.objects import model_object
from lichtspiel.serve.api.schemas import MODEL, MODELS, answers
from lichtspiel.serve.api.state import OwnerDep, ServerDep
from lichtspiel.spec import model as find

__all__ = ["router"]

router = APIRouter(tags=["models"])


@router.get("/v1/models", responses=answers(MODELS))
def list_models(server: ServerDep, _: OwnerDep) -> dict[str, Any]:
    """List the models that this server makes videos with; `options` are the fields of a request, as JSON schemas."""
    states = [*server.workers.values()]
    data = [model_object(find(name), states) for name in server.settings.models]
    return {"object": "list", "data": data, "options": PROPERTIES}


@router.get("/v1/models/{name}", responses=answers(MODEL))
def get_model(name: str, server: ServerDep, _: OwnerDep) -> dict[str, Any]:
    """Get one model with its sizes, limits and defaults."""
    if name not in server.settings.models:
        raise RequestError("model", name, f"this server has {', '.join(server.settings.models)}")
    return model_object(find(name), [*server.workers.values()])
