"""The HTTP face: what the page, scripts and benches need. Not a promised interface yet.

Every route that touches a person's data names the user; what a token opens is one household, not one user.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import structlog
from fastapi import APIRouter, Body, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.telemetry import TelemetryConfig
from pydantic import AwareDatetime
from starlette.exceptions import HTTPException
from starlette.responses import Response

from afterword import errors
from afterword.interfaces.forms import (
    AgainForm,
    ChatForm,
    ContextForm,
    EditForm,
    Id,
    JobAction,
    OneTurnForm,
    SearchForm,
    StopForm,
    TurnsForm,
    UserForm,
    as_json,
    receipt_json,
)
from afterword.interfaces.guard import Guard, check_exposure
from afterword.interfaces.health import LoopLag, Readiness, health, ready
from afterword.interfaces.holder import MemoryHolder, NotReady
from afterword.interfaces.metrics import metrics
from afterword.interfaces.request_ids import RequestIds
from afterword.interfaces.sse import news_stream, reply_stream
from afterword.memory import AsyncMemory
from afterword.ports import JobFilter
from afterword.records import Filters, JobState, MemoryKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from afterword.settings import Settings

log = structlog.get_logger(__name__)

# The first that fits decides.
STATUS: tuple[tuple[type[errors.AfterwordError], int], ...] = (
    (errors.NotFound, 404),
    (errors.VersionConflict, 409),
    (errors.EpochChanged, 409),
    (errors.LeaseLost, 409),
    (errors.NotRemembered, 409),
    (errors.QueueFull, 429),
    (errors.InvalidInput, 400),
    (errors.SettingsError, 400),
    (NotReady, 503),
    (errors.AfterwordError, 503),
)

# FastAPI's own spans and logs hold whole queries, the page's token in one of them, and the texts of errors.
SILENT: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}

Wanted = Annotated[Id, Query()]
router = APIRouter(prefix="/api")


def _memory(request: Request) -> AsyncMemory:
    holder: MemoryHolder = request.app.state.holder
    return holder.get()


Memory = Annotated[AsyncMemory, Depends(_memory)]


def create_app(
    memory: AsyncMemory | MemoryHolder, settings: Settings, *, lifespan: Callable[[FastAPI], Any] | None = None
) -> FastAPI:
    """The application over an open memory, or over a holder whose memory is still opening.

    Raises `SettingsError` when others could reach it and no token is set.
    """
    check_exposure(settings)
    app = FastAPI(
        title="Afterword",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
        telemetry=SILENT,
    )
    app.state.holder = memory if isinstance(memory, MemoryHolder) else MemoryHolder(memory)
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(RequestIds)
    app.add_exception_handler(errors.AfterwordError, _known_error)
    app.add_exception_handler(RequestValidationError, _bad_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unknown_error)
    app.state.loop_lag = lag = LoopLag()
    app.state.readiness = Readiness(settings, lag)
    app.add_api_route("/healthz", health, methods=["GET"])
    app.add_api_route("/readyz", ready, methods=["GET"])
    app.add_api_route("/metrics", metrics, methods=["GET"], include_in_schema=False)
    app.add_api_route("/events", _events, methods=["GET"])
    app.include_router(router)
    return app


# ── errors ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _error(status: int, name: str, message: str, fix: str = "", retry_after: float | None = None) -> JSONResponse:
    content = {"error": name, "message": message}
    headers = {"Retry-After": str(math.ceil(retry_after))} if retry_after is not None else None
    return JSONResponse({**content, "fix": fix} if fix else content, status, headers)


async def _known_error(_: Request, error: Exception) -> JSONResponse:
    status = next((status for kind, status in STATUS if isinstance(error, kind)), 500)
    later = 1.0 if isinstance(error, NotReady) else getattr(error, "retry_after", None)
    return _error(status, type(error).__name__, str(error), getattr(error, "fix", ""), later)


async def _bad_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path", "one", "many"))
    return _error(400, "InvalidInput", f"{where or 'the body'}: {first['msg']}")


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    name = {413: "TooLarge", 429: "TooManyRequests"}.get(error.status_code, "HttpError")
    return _error(error.status_code, name, str(error.detail), retry_after=1.0 if error.status_code == 429 else None)


async def _unknown_error(request: Request, error: Exception) -> JSONResponse:
    route = request.scope.get("route")  # its template: a path holds ids
    log.error("http.failed", route=getattr(route, "path", ""), exc_info=error)
    return _error(500, "UnexpectedError", "something unexpected went wrong; the server's log has the details")


# ── state ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _events(request: Request, user_id: Wanted) -> Response:
    holder: MemoryHolder = request.app.state.holder
    holder.get().scope(user_id)
    return news_stream(holder, user_id)


@router.get("/status")
async def status(memory: Memory) -> Any:
    return as_json(await memory.status())


# ── chatting ───────────────────────────────────────────────────────────────────────────────────────────────────────


@router.post("/chat")
async def chat(memory: Memory, form: ChatForm) -> Response:
    reply = await memory.chat(
        form.message,
        form.user_id,
        form.chat_id,
        turn_id=form.turn_id,
        utc_offset=form.utc_offset,
        metadata=form.metadata,
    )
    return reply_stream(memory, form.user_id, reply)


@router.post("/chat/again")
async def chat_again(memory: Memory, form: AgainForm) -> Response:
    return reply_stream(memory, form.user_id, await memory.ask_again(form.user_id, form.turn_id))


@router.get("/chat/live")
async def chat_live(memory: Memory, user_id: Wanted, chat_id: Wanted = "default") -> Response:
    reply = memory.live(user_id, chat_id)
    if reply is None:
        raise errors.NotFound(f"no reply is being written in chat {chat_id!r}")
    return reply_stream(memory, user_id, reply)


@router.post("/chat/stop")
async def chat_stop(memory: Memory, form: StopForm) -> Any:
    reply = memory.live(form.user_id, form.chat_id)
    if reply is None:
        return {"stopped": False}
    reply.stop()
    stored = await reply.done()
    return {"stopped": True, "reply_id": stored.id if stored is not None else None}


# ── turns and chats ────────────────────────────────────────────────────────────────────────────────────────────────


@router.post("/turns")
async def add_turns(
    memory: Memory, form: Annotated[TurnsForm, Body()], wait: Annotated[float | None, Query(gt=0, le=600)] = None
) -> Response:
    one = isinstance(form, OneTurnForm)
    if isinstance(form, OneTurnForm) and wait is None:
        turn = form.turn()
        ticket = await memory.submit(
            turn.text,
            form.user_id,
            turn.chat_id,
            turn.metadata,
            turn.turn_id,
            role=turn.role,
            speaker=turn.speaker,
            said_at=turn.said_at,
            utc_offset=turn.utc_offset,
        )
    else:
        turns = [form.turn()] if isinstance(form, OneTurnForm) else [each.turn() for each in form.turns]
        ticket = await memory.add_turns(turns, form.user_id)
    answer: dict[str, Any] = {"turn_ids": list(ticket.turn_ids), "pending": True}
    if wait is not None:
        try:
            answer = {**answer, "memory_ids": await ticket.ids(wait), "pending": False}
        except errors.StillPending:
            return JSONResponse(answer, 202)
    return JSONResponse(answer, 200 if one or wait is not None else 202)


@router.get("/turns")
async def turns(
    memory: Memory, user_id: Wanted, chat_id: Wanted = "default", limit: Annotated[int, Query(ge=1, le=1000)] = 200
) -> Any:
    live = memory.live(user_id, chat_id)
    found = await memory.turns(user_id, chat_id, limit)
    return {"turns": as_json(found), "replying_to": live.turn.id if live is not None else None}


@router.get("/chats")
async def chats(memory: Memory, user_id: Wanted) -> Any:
    return {"chats": as_json(await memory.chats(user_id))}


@router.delete("/chats")
async def delete_chat(memory: Memory, user_id: Wanted, chat_id: Wanted) -> Any:
    await memory.delete_chat(user_id, chat_id)
    return {"deleted": chat_id}


@router.get("/receipts/{reply_id}")
async def receipt(memory: Memory, reply_id: str, user_id: Wanted) -> Any:
    found = receipt_json(await memory.receipt(user_id, reply_id))
    if found is None:
        raise errors.NotFound(f"no receipt of reply {reply_id!r}")
    return found


# ── memories ───────────────────────────────────────────────────────────────────────────────────────────────────────


@router.post("/search")
async def search(memory: Memory, form: SearchForm) -> Any:
    hits = await memory.search(form.query, form.user_id, form.limit, form.reconsolidate, form.filters())
    return {"hits": as_json(hits)}


@router.post("/context")
async def context(memory: Memory, form: ContextForm) -> Any:
    """The text that the chat would give its LLM about a query."""
    text = await memory.context(
        form.query, form.user_id, form.budget_tokens, utc_offset=form.utc_offset, allow_orders=form.allow_orders
    )
    return {"text": text}


@router.get("/memories")
async def memories(
    memory: Memory,
    user_id: Wanted,
    kind: Annotated[list[MemoryKind] | None, Query()] = None,
    chat_id: Annotated[Id | None, Query()] = None,
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> Any:
    filters = Filters(kinds=tuple(kind or ()), chat_id=chat_id, since=since, until=until)
    return {"memories": as_json(await memory.get_all(user_id, filters, limit, offset))}


@router.get("/memories/{memory_id}")
async def one_memory(memory: Memory, memory_id: str, user_id: Wanted) -> Any:
    return as_json(await memory.get(memory_id, user_id))


@router.get("/memories/{memory_id}/history")
async def history(memory: Memory, memory_id: str, user_id: Wanted) -> Any:
    return {"versions": as_json(await memory.history(memory_id, user_id))}


@router.patch("/memories/{memory_id}")
async def edit(memory: Memory, memory_id: str, form: EditForm) -> Any:
    return as_json(await memory.update(memory_id, form.text, form.user_id))


@router.delete("/memories/{memory_id}")
async def delete(memory: Memory, memory_id: str, user_id: Wanted) -> Any:
    await memory.delete(memory_id, user_id)
    return {"deleted": memory_id}


# ── work ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@router.post("/consolidate")
async def consolidate(memory: Memory, form: UserForm) -> Any:
    return as_json((await memory.consolidate(form.user_id)).run)


@router.post("/backfill")
async def backfill(memory: Memory, form: UserForm) -> Any:
    return as_json((await memory.backfill(form.user_id)).run)


@router.post("/reset")
async def reset(memory: Memory, form: UserForm) -> Any:
    await memory.reset(form.user_id)
    return {"reset": form.user_id, "at": datetime.now().astimezone().isoformat()}


@router.get("/runs")
async def runs(memory: Memory, user_id: Wanted, kind: str | None = None) -> Any:
    return {"runs": as_json(await memory.runs(user_id, kind))}


@router.get("/jobs")
async def jobs(
    memory: Memory,
    user_id: Wanted,
    state: Annotated[list[JobState] | None, Query()] = None,
    kind: Annotated[list[str] | None, Query()] = None,
    chat_id: Annotated[Id | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: int | None = None,
) -> Any:
    wanted = JobFilter(tuple(state or ()), tuple(kind or ()), chat_id, limit, before)
    return {"jobs": as_json(await memory.jobs(user_id, wanted)), "counts": await memory.job_counts(user_id)}


@router.post("/jobs/{job_id}/{action}")
async def act_on_job(memory: Memory, job_id: int, action: JobAction, form: UserForm) -> Any:
    call = memory.retry_job if action == "retry" else memory.cancel_job
    return as_json(await call(job_id, form.user_id))
