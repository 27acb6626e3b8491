"""``/v1/completions``, ``/v1/chat/completions``, ``/v1/models``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from .answers import Answer, scored, sse
from .errors import ApiError, Json
from .orders import Choice
from .schema import ChatRequest, CompletionRequest, Sampled
from .state import State, state_of
from .stream import Piece, Stream, Token

Found = TypeVar("Found")
router = APIRouter(tags=["OpenAI"])

#: Seconds past a row's own deadline after which the engine is taken to hang.
GRACE = 60.0


@router.get("/v1/models")
async def models(request: Request) -> Json:
    """The model, and its presets."""
    state = state_of(request)
    names = await run_in_threadpool(state.resolver.models)
    return Json({"object": "list", "data": [_model(state, name) for name in names]})


@router.get("/v1/models/{model:path}")
async def model(request: Request, model: str) -> Json:
    """One model or preset."""
    state = state_of(request)
    await run_in_threadpool(state.resolver.preset, model)
    return Json(_model(state, model))


@router.post("/v1/completions")
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue text, steered."""
    state = state_of(request)
    if body.max_tokens == 0:
        raise ApiError(400, "invalid_value", "max_tokens must be at least 1", param="max_tokens")
    choices = await run_in_threadpool(state.orders.of_completion, body)
    echoes = [state.model.tokens.decode(c.order.prompt) if body.echo else "" for c in choices]
    known: Sequence[Sequence[Token]] = ()
    if body.echo and body.logprobs is not None:
        known = await state.analyse(lambda: [scored(state.model, choice) for choice in choices])
    return await _answer(request, state, body, choices, echoes, known, chat=False)


@router.post("/v1/chat/completions")
async def chat(body: ChatRequest, request: Request) -> Response:
    """Answer in a conversation, steered."""
    state = state_of(request)
    choices = await run_in_threadpool(state.orders.of_chat, body)
    return await _answer(request, state, body, choices, [""] * len(choices), (), chat=True)


def _model(state: State, name: str) -> dict[str, Any]:
    preset = name.partition(":")[2] if name != state.settings.name else None
    return {
        "id": name, "object": "model", "created": state.started, "owned_by": "steersman", "preset": preset,
        "max_model_len": state.model.architecture.max_positions, "n_layers": state.model.n_layers,
        "d_model": state.model.d_model, "chat": bool(getattr(state.model.tokenizer, "chat_template", None)),
    }  # fmt: skip


async def _answer(
    request: Request,
    state: State,
    body: Sampled,
    choices: list[Choice],
    echoes: list[str],
    known: Sequence[Sequence[Token]],
    *,
    chat: bool,
) -> Response:
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "invalid_value", "stream_options needs stream: true", param="stream_options")
    answer = Answer(state.model, body.model or state.settings.name, chat, choices, echoes, known)
    reader = Reader(state, choices, whole=not body.stream)
    reader.begin()
    try:
        first = await unless_gone(request, reader.next)
        if first is None:
            return Response(status_code=499)
        if body.stream:
            wants_usage = bool(body.stream_options and body.stream_options.include_usage)
            reader.handed_on = True
            return Told(reader, _told(reader, answer, first, wants_usage))
        return await _whole(request, reader, answer, first)
    finally:
        if not reader.handed_on:
            reader.cancel()


async def _whole(request: Request, reader: Reader, answer: Answer, first: tuple[int, Piece]) -> Response:
    async def rest() -> dict[str, Any]:
        index, piece = first
        while True:
            reader.take(answer, index, piece)
            if not reader.left:
                return answer.whole()
            index, piece = await reader.next()

    found = await unless_gone(request, rest)
    return Response(status_code=499) if found is None else Json(found)


async def _told(reader: Reader, answer: Answer, first: tuple[int, Piece], usage: bool) -> AsyncIterator[str]:
    """The answer as server-sent events."""
    try:
        for chunk in answer.first(usage):
            yield chunk
        index, piece = first
        while True:
            reader.take(answer, index, piece)
            for chunk in answer.piece(index, piece, usage):
                yield chunk
            if not reader.left:
                break
            index, piece = await reader.next()
        for chunk in answer.last(usage):
            yield chunk
    except ApiError as error:
        yield sse(error.body())


class Told(StreamingResponse):
    """An answer in events. However it ends, and also if its client has gone before it began, its rows are let go."""

    def __init__(self, reader: Reader, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._reader.cancel()


class Reader:
    """The asyncio side of a request's rows.

    Args:
        state: of the server.
        choices: the rows.
        whole: whether only the whole answer is wanted.

    Attributes:
        left: rows that have not ended.
        handed_on: whether someone else sees to its end.
    """

    def __init__(self, state: State, choices: list[Choice], *, whole: bool) -> None:
        self.handed_on = False
        self._state, self._choices = state, choices
        self._news: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self._streams = [Stream(state.model, choice.order, whole) for choice in choices]
        self._begun: float | None = time.monotonic()
        for index, stream in enumerate(self._streams):
            stream.deliver = self._to(index)
        self._open = set(range(len(choices)))
        self._late: asyncio.TimerHandle | None = None

    @property
    def left(self) -> int:
        """Rows that have not ended."""
        return len(self._open)

    def _to(self, index: int) -> Callable[[Piece], None]:
        return lambda piece: self._news.put_nowait((index, piece))

    def begin(self) -> None:
        """Put the rows in the queue."""
        self._state.scheduler.submit(self._streams)
        # one clock for all pieces: a timeout around each would cost more than the piece
        seconds = max(self._choices[0].order.deadline - time.monotonic(), 0.0) + GRACE
        hangs = Piece(error=ApiError(504, "timeout", "the engine does not answer"))
        self._late = asyncio.get_running_loop().call_later(seconds, self._to(0), hangs)
        for choice in self._choices:
            self._state.metrics.steered.labels(str(bool(choice.order.plan)).lower()).inc()

    async def next(self) -> tuple[int, Piece]:
        """The next piece of any row; its error, if it failed."""
        index, piece = await self._news.get()
        if piece.error is not None:
            raise piece.error
        if self._begun is not None:
            self._state.metrics.first.observe(time.monotonic() - self._begun)
            self._begun = None
        return index, piece

    def take(self, answer: Answer, index: int, piece: Piece) -> None:
        """Write a piece down."""
        count = len(self._streams[index].tokens)
        answer.written[index].take(self._choices[index], piece, self._state.model, count)
        if piece.last:
            self._open.discard(index)

    def cancel(self) -> None:
        """Let go of the rows that have not ended."""
        if self._late is not None:
            self._late.cancel()
        if self._open:
            self._state.scheduler.cancel([self._streams[index] for index in self._open])


async def unless_gone(request: Request, work: Callable[[], Awaitable[Found]]) -> Found | None:
    """What some work gives; None when the client goes away before."""
    doing = asyncio.ensure_future(work())
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        for task in (doing, gone):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
