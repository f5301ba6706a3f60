"""One table from exception to status: it covers what rooms raise, and an unexpected fault tells the peer nothing."""

import importlib
import inspect
import pkgutil

import grpc
import pytest

import autoresearch
import autoresearch.judging
import coordinator
from autoresearch.admission_errors import AdmissionCode, AdmissionError
from autoresearch.envelope import EnvelopeError
from coordinator import refusals, rpc_errors
from coordinator.errors import CoordinatorError, OperatorError
from coordinator.refusals import RefusalError, TooOftenError
from coordinator.rpc_errors import STATUS, TROUBLE, status_of
from coordinator.session import SessionError
from coordinator.store import StoreError

# Raised while starting, by a ledger's reader, or by a fault of ours; a peer must learn nothing of them.
OURS = {
    "CoordinatorError": "the base; nobody raises it",
    "RefusalError": "the base; nobody raises it",
    "EndedError": "told to end before it served anybody",
    "LedgerError": "a damaged ledger: read at audits and at the start",
    "AttestError": "a damaged ledger: read at audits",
    "TextError": "likewise",
    "_UnmadeError": "likewise; it does not leave its module",
    "CheckpointError": "kept checkpoints are read at the start; proofs are checked by whoever asked for them",
    "ProofError": "likewise",
    "PolicyError": "settings",
    "TokenError": "the gate turns it into what the caller has to do",
    "RuleError": "settings",
    "EvidenceError": "results are checked before they become evidence",
    "LineageError": "a promotion that raced; looked at again by the worker",
    "TipMovedError": "likewise",
    "UnknownCommitError": "commits from outside are looked up first",
}


def exceptions() -> dict[str, type[Exception]]:
    """Every exception class that the coordinator and what it shares with volunteers define."""
    packages = (coordinator, autoresearch, autoresearch.judging)
    names = [module.name for p in packages for module in pkgutil.iter_modules(p.__path__, f"{p.__name__}.")]
    rooms = [name for name in names if not (name.endswith("__main__") or ".demo" in name)]
    defined = [(value, room) for room in rooms for value in vars(importlib.import_module(room)).values()]
    return {
        value.__name__: value
        for value, room in defined
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == room
    }


def covered(kind: type[Exception]) -> bool:
    return any(issubclass(kind, listed) for listed in STATUS)


def test_every_exception_has_a_status_or_is_knowingly_ours() -> None:
    missing = {name for name, kind in exceptions().items() if not covered(kind)}
    assert missing == set(OURS)


def test_every_refusal_has_a_status_of_its_own() -> None:
    kinds = [k for k in vars(refusals).values() if inspect.isclass(k) and issubclass(k, RefusalError)]
    assert {k for k in kinds if k is not RefusalError} <= set(STATUS)


@pytest.mark.parametrize("kind", STATUS, ids=lambda kind: kind.__name__)
def test_a_listed_exception_becomes_its_status(kind: type[Exception]) -> None:
    made = {
        AdmissionError: lambda: AdmissionError(AdmissionCode.EMPTY, "why"),
        TooOftenError: lambda: TooOftenError("why", 7),
    }
    error = made.get(kind, lambda: kind("why"))()
    code, text = status_of(error)
    assert code is STATUS[kind]
    assert text == (TROUBLE if code is grpc.StatusCode.UNAVAILABLE else "why")


@pytest.mark.parametrize("kind", [StoreError, OperatorError])
def test_the_operators_trouble_is_told_without_its_details(kind: type[Exception]) -> None:
    code, text = status_of(kind("cannot write /srv/secret/autoresearch.jsonl at redis://:hunter2@store"))
    assert code is grpc.StatusCode.UNAVAILABLE  # which clients try again
    assert "secret" not in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    "error",
    [RuntimeError("/srv/key"), KeyError("hunter2"), AssertionError("x"), CoordinatorError("y"), TimeoutError()],
)
def test_an_unexpected_fault_is_internal_and_carries_no_text(error: Exception) -> None:
    assert status_of(error) == (grpc.StatusCode.INTERNAL, "")


def test_what_the_sender_must_mend_is_never_worth_repeating() -> None:
    for kind in (EnvelopeError, SessionError, AdmissionError, *RefusalError.__subclasses__()):
        assert STATUS[kind] is not grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(("error", "traced"), [(StoreError("mend the disk"), False), (RuntimeError("a bug"), True)])
async def test_a_fault_of_ours_is_logged_with_its_trace_and_the_operators_trouble_in_one_line(
    error: Exception, traced: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Aborted):
        await rpc_errors.abort(error, Answering())  # type: ignore[arg-type]
    (record,) = caplog.records
    assert bool(record.exc_info) is traced
    assert traced or "mend the disk" in record.message


async def test_whoever_called_too_often_is_told_the_wait_in_the_trailer() -> None:
    context = Answering()
    with pytest.raises(Aborted):
        await rpc_errors.abort(TooOftenError("later", 1500), context)  # type: ignore[arg-type]
    assert context.trailers == (("grpc-retry-pushback-ms", "1500"),)


class Aborted(grpc.aio.AbortError):
    """What a real context raises."""


class Answering:
    """The part of gRPC's context that errors reach."""

    def __init__(self) -> None:
        self.said: list[tuple[grpc.StatusCode, str]] = []

    async def abort(self, code: grpc.StatusCode, text: str, trailers: tuple[tuple[str, str], ...] = ()) -> None:
        self.said.append((code, text))
        self.trailers = trailers
        raise Aborted


async def test_the_wrappers_translate_once_and_pass_answers_through() -> None:
    async def unary(_: object, request: str, __: object) -> str:
        if request != "fine":
            raise refusals.NotFoundError(request)
        return request

    async def stream(servicer: object, request: str, context: object):  # type: ignore[no-untyped-def]
        yield "first"
        yield await unary(servicer, request, context)

    context = Answering()
    call = rpc_errors.unary(unary)
    streaming = rpc_errors.streaming(stream)
    assert await call(None, "fine", context) == "fine"  # type: ignore[arg-type]
    assert [r async for r in streaming(None, "fine", context)] == ["first", "fine"]  # type: ignore[arg-type]
    assert context.said == []
    with pytest.raises(Aborted):
        await call(None, "gone", context)  # type: ignore[arg-type]
    with pytest.raises(Aborted):
        [r async for r in streaming(None, "lost", context)]  # type: ignore[arg-type]
    assert context.said == [(grpc.StatusCode.NOT_FOUND, "gone"), (grpc.StatusCode.NOT_FOUND, "lost")]
