"""The coordinator's side of a session: what may come when. Illegal messages raise and change nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch import limits
from autoresearch.v1 import volunteer_service_pb2 as pb
from autoresearch.v1.envelope_pb2 import Envelope
from coordinator.session import Session, SessionError, State

LEASE = "0123456789abcdef" * 2
OPEN = pb.SessionRequest(open=pb.Open(proof=Envelope(payload=b"proof"), held_lease_ids=[LEASE]))
WORK = {
    "lease": pb.SessionRequest(lease=pb.LeaseRequest(request_id=7)),
    "heartbeat": pb.SessionRequest(heartbeat=pb.Heartbeat(lease_id=LEASE, stage="training")),
    "result": pb.SessionRequest(result=pb.ResultDelivery(result=Envelope(payload=b"result"))),
    "lease_return": pb.SessionRequest(lease_return=pb.LeaseReturn(lease_id=LEASE, reason="going home")),
}
GREETED, AT_WORK = Session(), Session(State.OPEN)


def test_a_session_opens_with_a_proof() -> None:
    session, message = GREETED.receive(OPEN)
    assert session == AT_WORK
    assert isinstance(message, pb.Open)
    assert list(message.held_lease_ids) == [LEASE]


@pytest.mark.parametrize("kind", WORK)
def test_an_open_session_takes_every_working_message_and_stays_open(kind: str) -> None:
    session, message = AT_WORK.receive(WORK[kind])
    assert session == AT_WORK
    assert message == getattr(WORK[kind], kind)


@pytest.mark.parametrize("kind", WORK)
def test_nothing_but_a_proof_comes_first(kind: str) -> None:
    with pytest.raises(SessionError, match=f"'greeted' takes no '{kind}'"):
        GREETED.receive(WORK[kind])
    assert GREETED.receive(OPEN)[0] == AT_WORK  # nothing was changed by the refusal


def test_a_session_opens_once() -> None:
    with pytest.raises(SessionError, match="'open' takes no 'open'"):
        AT_WORK.receive(OPEN)


@pytest.mark.parametrize("session", [GREETED, AT_WORK])
def test_a_message_that_this_version_does_not_know_is_refused(session: Session) -> None:
    later = pb.SessionRequest.FromString(b"\xfa\x01\x02hi")  # a field of the far future
    for message in (pb.SessionRequest(), later):
        with pytest.raises(SessionError, match="upgrade"):
            session.receive(message)


def test_every_message_of_the_protocol_has_a_place() -> None:
    events = {field.name for field in pb.SessionRequest.DESCRIPTOR.oneofs_by_name["event"].fields}
    assert events == {"open", *WORK}


GARBAGE = ["", "x", LEASE[:-1], LEASE + "0", LEASE.upper(), "../" + LEASE[3:], LEASE[:-1] + "\n", "é" * 32, "{" * 32]


@pytest.mark.parametrize("lease_id", GARBAGE)
def test_a_lease_id_of_another_form_is_refused(lease_id: str) -> None:
    held = pb.SessionRequest(open=pb.Open(held_lease_ids=[LEASE, lease_id]))
    heartbeat = pb.SessionRequest(heartbeat=pb.Heartbeat(lease_id=lease_id))
    returned = pb.SessionRequest(lease_return=pb.LeaseReturn(lease_id=lease_id))
    for session, message in ((GREETED, held), (AT_WORK, heartbeat), (AT_WORK, returned)):
        with pytest.raises(SessionError, match="32 lower-case hex"):
            session.receive(message)


def test_the_number_of_held_leases_is_limited() -> None:
    most = pb.SessionRequest(open=pb.Open(held_lease_ids=[LEASE] * limits.LEASES_PER_MACHINE))
    assert GREETED.receive(most)[0] == AT_WORK
    most.open.held_lease_ids.append(LEASE)
    with pytest.raises(SessionError, match="more than 64"):
        GREETED.receive(most)


def test_the_length_of_a_reason_is_limited() -> None:
    returned = pb.SessionRequest(lease_return=pb.LeaseReturn(lease_id=LEASE, reason="x" * limits.REASON_CHARACTERS))
    assert AT_WORK.receive(returned)[0] == AT_WORK
    returned.lease_return.reason += "x"
    with pytest.raises(SessionError, match="at most 500"):
        AT_WORK.receive(returned)


@given(st.lists(st.sampled_from([OPEN, *WORK.values(), pb.SessionRequest()]), max_size=12))
def test_whatever_comes_a_session_is_open_only_after_its_one_proof(messages: list[pb.SessionRequest]) -> None:
    session, opened = Session(), 0
    for message in messages:
        try:
            session, taken = session.receive(message)
        except SessionError:
            continue
        opened += isinstance(taken, pb.Open)
    assert opened == (session.state is State.OPEN) == (OPEN in messages)
