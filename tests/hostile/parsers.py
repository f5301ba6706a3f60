"""Everything that reads bytes from outside: real inputs to begin from, and the only errors that may come out.

Left out: where inputs come from (`test_parsers.py`, `fuzz.py`).
"""

import atexit
import json
import shutil
import tempfile
import unicodedata
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message

from autoresearch import checkpoint, envelope, merkle, text
from autoresearch.admission_errors import AdmissionError
from autoresearch.attest import Attestations, AttestError
from autoresearch.checkpoint import CheckpointError
from autoresearch.digest import key_id
from autoresearch.envelope import EnvelopeError
from autoresearch.judging import ledger
from autoresearch.judging.ledger import LedgerError
from autoresearch.judging.rule import DEFAULT, Rule, RuleError
from autoresearch.merkle import ProofError
from autoresearch.v1 import identity_pb2, operator_pb2, patch_pb2, trial_pb2, volunteer_service_pb2
from autoresearch.v1.challenge_pb2 import Challenge
from autoresearch.v1.envelope_pb2 import Envelope
from coordinator import admission, changes, checkpoints, inspection, leasing, quotas, receiving, segments, tokens
from coordinator.errors import OperatorError
from coordinator.refusals import InvalidRequestError
from coordinator.session import Session, SessionError, State
from coordinator.settings import Enrolment, Settings, split_address
from tests.integration.swarm_on_wire import SOURCE, change
from trainer import batches, record, tokenizer
from trainer.errors import DataDamagedError
from trainer.manifest import MANIFEST_NAME, manifest_bytes, read_manifest
from trainer.weights import header_problem
from trainer.wire import Frame, FrameReader, WireError, encode_frame
from volunteer import address, drafts, orders, pin, settings
from volunteer.errors import AddressError, HomeError, InputError, OrderError
from volunteer.orders import Terms

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WHO = key_id(envelope.public_bytes(KEY))
SWARM = "5" * 32
SHA = "a" * 64
DIFF = change("WIDTH = 128", "WIDTH = 256")
CHALLENGE = Challenge(format=1, name="it", budget_ms=10_000, grace_ms=1_000, source_bytes=65_536)
ORDER = trial_pb2.Order(
    protocol=1, swarm_id=SWARM, order_id="0" * 32, lease_id="1" * 32, identity_id=WHO, machine_id="2" * 32,
    hardware_class="H100", source_sha256=SHA, challenge_sha256=SHA, trial_code_sha256=SHA, seed=7, issued_at_ms=1,
)  # fmt: skip
RESULT = trial_pb2.Result(
    protocol=1, swarm_id=SWARM, lease_id="1" * 32, order_sha256=SHA, source_sha256=SHA, challenge_sha256=SHA,
    trial_code_sha256=SHA, machine_id="2" * 32, seed=7, outcome=trial_pb2.OUTCOME_COMPLETED, val_bpb=1.0,
    train_ms=10_000, loss_curve=[trial_pb2.LossPoint(share=0.5, loss=2.0)], log_tail="ok", weights_sha256=SHA,
)  # fmt: skip
HEARTBEAT = volunteer_service_pb2.Heartbeat(lease_id="1" * 32, stage="train", share=0.5, step=3, loss=2.0)
MANIFEST = {
    "dataset": "tiny", "vocab_size": 300, "bos_id": 256, "sequence_len": 64, "exam_rows": 4, "train_shards": ["a"],
    "files": dict.fromkeys(("a.bin", "a.idx", "tokenizer.json", "val.bin", "reserve.bin"), SHA),
}  # fmt: skip
SIGNED: dict[str, Message] = {
    envelope.ORDER: ORDER,
    envelope.RESULT: RESULT,
    envelope.ENROLMENT: identity_pb2.Enrolment(protocol=1, swarm_id=SWARM, name="ada", machine_id="2" * 32),
    envelope.PATCH: patch_pb2.PatchSubmission(protocol=1, swarm_id=SWARM, diff=DIFF, title="it", base_commit="0" * 40),
    envelope.INSTRUCTION: operator_pb2.Instruction(protocol=1, swarm_id=SWARM, instruction_id="3" * 32),
}


@dataclass(frozen=True)
class Parser:
    """`run` reads bytes; `allowed`: the errors that it documents. `cost`: how much slower than most it is."""

    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    allowed: tuple[type[Exception], ...] = ()
    cost: int = 1

    def take(self, data: bytes) -> bool:
        """Whether the input was taken.

        Raises:
            Exception: one that is not documented.
        """
        try:
            self.run(data)
        except self.allowed:
            return False
        return True


@cache
def scratch() -> Path:
    """A folder for parsers of files."""
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def said(data: bytes) -> str:
    """Bytes as some text, as a command line or an environment gives it."""
    return data.decode("utf-8", "surrogateescape")


def in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """A parser of a file's content."""

    def run(data: bytes) -> object:
        path = scratch() / name
        path.write_bytes(data)
        found = read(path)
        return list(found) if isinstance(found, Iterator) else found

    return run


# --- what reads ---


def opened(data: bytes) -> None:
    """An envelope as it comes, and as any kind of message."""
    signed = receiving.parsed(data, Envelope.FromString)
    for payload_type, kind in SIGNED.items():
        try:
            envelope.open_as(signed, payload_type, type(kind))
        except EnvelopeError:
            continue


def signed_payload(data: bytes) -> None:
    """A payload that somebody signed, whatever it is."""
    for payload_type, kind in SIGNED.items():
        bare = Envelope(payload=data, payload_type=payload_type)
        value = KEY.sign(envelope.pae(payload_type, data))
        bare.signatures.add(public_key=envelope.public_bytes(KEY), value=value)
        try:
            envelope.open_as(bare, payload_type, type(kind))
        except EnvelopeError:
            continue


def admitted(data: bytes) -> None:
    """A diff, and what is looked at in the source that it makes."""
    source = admission.admit(data, SOURCE).candidate_source
    inspection.findings(source, SOURCE)
    changes.change_key(SOURCE, source)


def checked_source(data: bytes) -> None:
    """A whole source."""
    source = said(data)
    admission.check_source(source, entry_points=())
    inspection.findings(source)


def drafted(data: bytes) -> None:
    """What an author proposes."""
    drafts.check(drafts.parse(data))


def ordered(data: bytes) -> None:
    """An order whose bytes the coordinator signed."""
    signed = Envelope(payload=data, payload_type=envelope.ORDER)
    value = KEY.sign(envelope.pae(envelope.ORDER, data))
    signed.signatures.add(public_key=envelope.public_bytes(KEY), value=value)
    orders.check(signed, Terms(SWARM, WHO, WHO, "2" * 32, SHA, SHA))


def result_judged(data: bytes) -> None:
    """A result against its lease and order."""
    result = receiving.parsed(data, trial_pb2.Result.FromString)
    assert isinstance(leasing.malformed(result, (SHA, SHA, SHA, 7), CHALLENGE), str)


def session_heard(data: bytes) -> None:
    """A session's message, first and later."""
    request = receiving.parsed(data, volunteer_service_pb2.SessionRequest.FromString)
    try:
        Session().receive(request)
    except SessionError:
        Session(State.OPEN).receive(request)


def attested(data: bytes) -> None:
    """A ledger entry's body, of every kind, by a coordinator that writes what it likes."""
    body = json.loads(data)
    if isinstance(body, dict):
        for kind in ledger.KINDS:
            try:
                Attestations().take(kind, body)
            except AttestError:
                continue


def ledger_read(data: bytes) -> None:
    """A ledger's lines."""
    ledger.verify(data.split(b"\n"))


def rule_read(data: bytes) -> None:
    """A rule as a ledger states it."""
    found = json.loads(data)
    if isinstance(found, dict):
        Rule.from_json(found)


def proved(data: bytes) -> None:
    """A Merkle proof, sizes first."""
    old, new = int.from_bytes(data[:8], "big"), int.from_bytes(data[8:16], "big")
    hashes = [data[at : at + 32] for at in range(80, len(data), 32)]
    for check in (
        lambda: merkle.check_consistency(old, data[16:48], new, data[48:80], hashes),
        lambda: merkle.root_from_inclusion(data[16:48], old, new, hashes),
    ):
        try:
            check()
        except ProofError:
            continue


def framed(data: bytes) -> None:
    """What a candidate's process writes to its pipe, in pieces."""
    reader = FrameReader(max_payload_bytes=4_096)
    for at in range(0, len(data), 7):
        for frame in reader.feed(data[at : at + 7]):
            assert len(frame.payload) <= 4_096


def weights_checked(data: bytes) -> None:
    """The head of a file of weights."""
    assert isinstance(header_problem(BytesIO(data), len(data)), str)


_SPACES = {code: " " for code in range(0x3001) if unicodedata.category(chr(code)) == "Zs"}  # wide ones harm nobody


def cleaned(data: bytes) -> None:
    """Any text, made fit for a screen."""
    dirty = data.decode("utf-8", "surrogatepass" if data[:1] == b"s" else "replace")
    line, several = text.clean_line(dirty, 40), text.clean_text(dirty, 40)
    assert line.isprintable() or not line
    assert len(line) <= 40
    assert len(several) <= 40
    assert several.replace("\n", "").replace("\t", "").translate(_SPACES).isprintable()
    assert not text.is_line(dirty, 40) or dirty.translate(_SPACES).isprintable()


def cleaned_or_no_text(data: bytes) -> None:
    """As `cleaned`; bytes that are no text at all do not get there."""
    try:
        cleaned(data)
    except UnicodeDecodeError:
        return


def token_read(data: bytes) -> None:
    """A session token and a nonce."""
    tokens.read_token(b"k" * 32, said(data), 0)


def nonce_read(data: bytes) -> None:
    """A nonce."""
    tokens.check_nonce(b"k" * 32, data, 0)


def coordinator_settings(data: bytes) -> None:
    """What an operator may write behind the flags."""
    words = [*said(data).split("\n"), "", "", ""]
    for make in (
        lambda: Settings(Path("x"), listen=words[0]),
        lambda: Settings(Path("x"), approval=words[1], enrolment=words[0]),
        lambda: Enrolment.of(words[0]),
        lambda: split_address("--listen", words[0]),
    ):
        try:
            make()
        except OperatorError:
            continue


def volunteer_settings(data: bytes) -> None:
    """What may stand in the environment."""
    names = ("AUTORESEARCH_SWARM", "AUTORESEARCH_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR")
    values = said(data.replace(b"\0", b"")).split("\n")  # no environment holds a zero byte
    settings.load(dict(zip(names, values, strict=False)))


def addressed(data: bytes) -> None:
    """A join address, which reads back as it is shown."""
    found = address.parse(said(data))
    assert address.parse(str(found)) == found


def kept_checkpoints(path: Path) -> Iterator[checkpoint.TreeHead]:
    """The file of a coordinator's own statements."""
    return checkpoints.read_kept(path, SWARM, WHO)


def closed_segments(path: Path) -> object:
    """The manifest of a ledger's segments."""
    return segments.load(path.parent, 16)


def packed(payload_type: str) -> bytes:
    """A signed message of a kind."""
    return envelope.sign(SIGNED[payload_type], payload_type, KEY).SerializeToString()


HEAD = checkpoint.sign(SWARM, 5, b"r" * 32, 1, KEY)
LINE, _ = ledger.append(ledger.EMPTY, "patch", {"patch_id": "0" * 16, "envelope": ""}, 1)
BODIES = tuple(
    json.dumps({"envelope": b64encode(packed(kind)).decode(), "swarm_id": SWARM, "patch_id": "0" * 16}).encode()
    for kind in SIGNED
)
HEADER = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
ADDRESS = f"example.org:50600#{WHO}".encode()
KEPT = json.dumps({"envelope": b64encode(HEAD.signed).decode()}).encode() + b"\n"
TOKENS = json.dumps({"pattern": ".", "tokens": [b64encode(bytes((n,))).decode() for n in range(256)]}).encode()
SESSION = tuple(
    volunteer_service_pb2.SessionRequest(**event).SerializeToString()
    for event in ({"open": volunteer_service_pb2.Open(held_lease_ids=["1" * 32])}, {"heartbeat": HEARTBEAT})
)
PIN = json.dumps({"address": ADDRESS.decode(), "swarm_id": SWARM, "name": "ada"}).encode()
SEGMENT = {"number": 0, "first": 0, "entries": 16, "content_bytes": 1, "sha256": SHA, "file_sha256": SHA, "root": SHA}
SEGMENTS = json.dumps({"segments": [{**SEGMENT, "last_sha256": SHA}]}).encode()
MAIL = b"Title: Wider\nRationale: because\nTags: a, b\nBase: " + b"0" * 40 + b"\n\n" + DIFF

PARSERS: dict[str, Parser] = {
    "envelope": Parser(opened, tuple(map(packed, SIGNED)), (InvalidRequestError,)),
    "payload": Parser(signed_payload, tuple(m.SerializeToString() for m in SIGNED.values()), cost=8),
    "diff": Parser(admitted, (DIFF, MAIL), (AdmissionError,), cost=8),
    "source": Parser(
        checked_source, (SOURCE.encode(), b"def f(x):\n    return f'{x!r:>{x}}'\n"), (AdmissionError,), cost=8
    ),
    "draft": Parser(drafted, (MAIL, DIFF), (InputError,)),
    "order": Parser(ordered, (ORDER.SerializeToString(),), (OrderError,), cost=3),
    "result": Parser(result_judged, (RESULT.SerializeToString(),), (InvalidRequestError,)),
    "session": Parser(session_heard, SESSION, (InvalidRequestError, SessionError)),
    "ledger": Parser(ledger_read, (LINE, LINE + b"\n" + LINE), (LedgerError,)),
    "ledger body": Parser(attested, BODIES, (ValueError, RecursionError), cost=4),
    "rule": Parser(rule_read, (json.dumps(DEFAULT.to_json()).encode(),), (RuleError, ValueError, RecursionError)),
    "checkpoint": Parser(lambda data: checkpoint.read(data, SWARM), (HEAD.signed,), (CheckpointError,), cost=2),
    "kept checkpoints": Parser(in_file("kept", kept_checkpoints), (KEPT,), (CheckpointError,), cost=3),
    "proof": Parser(proved, ((5).to_bytes(8, "big") + (9).to_bytes(8, "big") + b"h" * 160,)),
    "segments": Parser(in_file(segments.MANIFEST, closed_segments), (SEGMENTS,), (OperatorError,), cost=3),
    "address": Parser(addressed, (ADDRESS, b"[::1]:7070"), (AddressError,)),
    "pin": Parser(in_file("swarm.json", lambda path: pin.load(path.parent)), (PIN,), (HomeError,), cost=3),
    "frame": Parser(framed, (encode_frame(Frame({"kind": "want", "rows": 2}, b"abc")) * 2,), (WireError,)),
    "weights": Parser(weights_checked, (len(HEADER).to_bytes(8, "little") + HEADER + b"\0" * 8,)),
    "batches": Parser(batches.from_bytes, (b"\0" * 8 + b"\x01\0\0\0", b"\0" * 24), (ValueError,)),
    "record": Parser(record.decode, (b"",), (ValueError,)),
    "tokenizer": Parser(tokenizer.tokenizer_from_json, (TOKENS,), (ValueError,), cost=3),
    "manifest": Parser(
        in_file(MANIFEST_NAME, lambda path: read_manifest(path.parent)),
        (manifest_bytes(MANIFEST),),
        (DataDamagedError,),
        3,
    ),
    "text": Parser(cleaned_or_no_text, ("Grüße \x1b[31m\u202e".encode(), b"s\xed\xa0\x80")),
    "token": Parser(token_read, (tokens.make_token(b"k" * 32, WHO, 1).encode(),), (tokens.TokenError,)),
    "nonce": Parser(nonce_read, (tokens.make_nonce(b"k" * 32, b"r" * 16, 0),), (tokens.TokenError,)),
    "peer": Parser(lambda data: quotas.address_of(said(data)), (b"ipv4:203.0.113.7:5", b"ipv6:%5B::1%5D:5", b"unix:")),
    "settings of a coordinator": Parser(coordinator_settings, (b"0.0.0.0:1\nauto", b"work:6")),
    "settings of a volunteer": Parser(volunteer_settings, (b"a:1\n/x\n/y\n/z", b"\n~\n~nobody/x"), (HomeError,)),
}
