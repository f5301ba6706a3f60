"""Gives a running coordinator the instructions of its operator, from the host that holds the swarm's folder.

Signs with `operator.key`, which the first start made there. Approvers elsewhere use `autoresearch-volunteer`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from autoresearch import envelope, limits, succession
from autoresearch.digest import key_id
from autoresearch.judging import ledger
from autoresearch.judging.ledger import Entry
from autoresearch.text import clean_line
from autoresearch.v1 import access_service_pb2 as access_pb2
from autoresearch.v1 import access_service_pb2_grpc as access_grpc
from autoresearch.v1 import leaderboard_service_pb2 as board_pb2
from autoresearch.v1 import leaderboard_service_pb2_grpc as board_grpc
from autoresearch.v1 import operator_service_pb2 as operator_pb2
from autoresearch.v1 import operator_service_pb2_grpc as operator_grpc
from autoresearch.v1 import patch_pb2
from autoresearch.v1 import patch_service_pb2 as patches_pb2
from autoresearch.v1 import patch_service_pb2_grpc as patches_grpc
from autoresearch.v1 import volunteer_service_pb2 as volunteer_pb2
from autoresearch.v1 import volunteer_service_pb2_grpc as volunteer_grpc
from autoresearch.v1.identity_pb2 import IdentityProof
from autoresearch.v1.operator_pb2 import Instruction
from coordinator import keys
from coordinator.errors import OperatorError
from coordinator.own_channel import own_channel
from coordinator.settings import ADDRESS, CERTIFICATE, OPERATOR_KEY

CALL_S: Final = 20.0
_PROMOTED: Final = (patch_pb2.VERDICT_PROMOTED, patch_pb2.VERDICT_REGRESSED)  # or taken back since
NEXT_OPERATOR_KEY: Final = "operator.next.key"  # of a rotation that was begun


@dataclass(frozen=True, slots=True)
class Chance:
    """Where instants and new ids come from."""

    now_ms: Callable[[], int]
    token: Callable[[], str]


class OperatorClient:
    """A connection to the coordinator of a swarm's folder. Use it as a context."""

    def __init__(self, data_dir: Path, chance: Chance) -> None:
        self._data_dir = data_dir
        self._key = _key(data_dir)
        self._target = _target(data_dir)
        self._chance = chance
        self._channel = own_channel(self._target, data_dir / CERTIFICATE)
        self._operators = operator_grpc.OperatorServiceStub(self._channel)
        self._access = access_grpc.AccessServiceStub(self._channel)
        self._board = board_grpc.LeaderboardServiceStub(self._channel)
        self._patches = patches_grpc.PatchServiceStub(self._channel)
        self._swarm_id = ""

    def __enter__(self) -> Self:
        try:
            answer = self._call(
                volunteer_grpc.VolunteerServiceStub(self._channel).GetSwarm, volunteer_pb2.GetSwarmRequest()
            )
            info, _ = envelope.open_as(answer.info, envelope.SWARM_INFO, volunteer_pb2.SwarmInfo)
        except BaseException:
            self._channel.close()
            raise
        self._swarm_id = info.swarm_id
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def instruct(self, reason: str, **action: Any) -> operator_pb2.InstructResponse:
        """Has one instruction carried out; `action`: the field of Instruction.action with its message.

        Raises:
            OperatorError: the coordinator refused, or did not answer.
        """
        order = Instruction(
            protocol=limits.PROTOCOL,
            swarm_id=self._swarm_id,
            instruction_id=self._chance.token(),
            signed_at_ms=self._chance.now_ms(),
            reason=reason,
            **action,
        )
        signed = envelope.sign(order, envelope.INSTRUCTION, self._key)
        answer: operator_pb2.InstructResponse = self._call(
            self._operators.Instruct, operator_pb2.InstructRequest(instruction=signed)
        )
        return answer

    def register(self) -> operator_pb2.GetRegisterResponse:
        """Roles, bans, and what waits for approval.

        Raises:
            OperatorError: the coordinator refused, or did not answer.
        """
        token = self._authenticate(self._key).token
        answer: operator_pb2.GetRegisterResponse = self._call(
            self._operators.GetRegister, operator_pb2.GetRegisterRequest(), (("authorization", f"Bearer {token}"),)
        )
        return answer

    def rotate_key(self) -> str:
        """Gives the operator a new key in place of `operator.key`; the identity, which stays. The new key is on disk
        before the coordinator hears of it; interrupted anywhere, the same again goes on.

        Raises:
            OperatorError: the coordinator refused, or did not answer.
        """
        path = self._data_dir / NEXT_OPERATOR_KEY
        begun, new = path.exists(), keys.load_or_make_signing_key(path)
        identity_id = self._speaks_for(new) if begun else ""
        if not identity_id:
            identity_id = str(self._authenticate(self._key).identity_id)
            signed = succession.sign(self._swarm_id, identity_id, self._key, new)
            self._call(self._access.RotateKey, access_pb2.RotateKeyRequest(rotation=signed))
        path.replace(self._data_dir / OPERATOR_KEY)
        return identity_id

    def _speaks_for(self, new: Ed25519PrivateKey) -> str:
        """The identity that a key of a rotation that was begun has already; empty if none."""
        own_id = key_id(envelope.public_bytes(new))
        identity_id = str(self._authenticate(new).identity_id)
        return "" if identity_id == own_id else identity_id

    def _authenticate(self, key: Ed25519PrivateKey) -> access_pb2.AuthenticateResponse:
        nonce = self._call(self._access.GetNonce, access_pb2.GetNonceRequest()).nonce
        proof = IdentityProof(protocol=limits.PROTOCOL, swarm_id=self._swarm_id, nonce=nonce)
        signed = envelope.sign(proof, envelope.IDENTITY_PROOF, key)
        answer: access_pb2.AuthenticateResponse = self._call(
            self._access.Authenticate, access_pb2.AuthenticateRequest(proof=signed)
        )
        return answer

    def entry(self, sequence: int) -> Entry:
        """An entry of the ledger.

        Raises:
            OperatorError: there is none with that number, or the coordinator did not answer.
        """
        lines = self._board.ReadLedger(board_pb2.ReadLedgerRequest(start=sequence), timeout=CALL_S)
        try:
            return ledger.parse(next(lines).line)
        except StopIteration:
            raise OperatorError(
                f"the ledger has no entry {sequence}: `autoresearch-volunteer events` shows them"
            ) from None
        except grpc.RpcError as error:
            raise OperatorError(clean_line(error.details() or error.code().name, 500)) from error
        finally:
            lines.cancel()

    def promoted(self, generation: int) -> str:
        """The patch that was promoted as that generation.

        Raises:
            OperatorError: none was, or the coordinator did not answer.
        """
        token = ""
        while True:
            page = self._call(
                self._patches.ListPatches, patches_pb2.ListPatchesRequest(page_token=token, verdicts=_PROMOTED)
            )
            for patch in page.patches:
                if generation and patch.promoted_generation == generation:
                    return str(patch.patch_id)
            token = page.next_page_token
            if not token:
                raise OperatorError(
                    f"generation {generation} is no promotion: `autoresearch-volunteer patches` shows them"
                )

    def _call(self, method: Any, request: Any, metadata: tuple[tuple[str, str], ...] = ()) -> Any:
        """One call; again while the coordinator is just coming up."""
        until = time.monotonic() + CALL_S
        while True:
            try:
                return method(request, timeout=CALL_S, metadata=metadata)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise OperatorError(clean_line(error.details() or error.code().name, 500)) from error
                if time.monotonic() > until:
                    raise OperatorError(
                        f"no coordinator answers at {self._target}: start it with `autoresearch-coordinator serve`"
                    ) from error
            time.sleep(0.2)


def _key(data_dir: Path) -> Ed25519PrivateKey:
    if not (data_dir / OPERATOR_KEY).exists():
        raise OperatorError(f"{data_dir} has no {OPERATOR_KEY}: name the folder of a swarm that was served with --data")
    return keys.load_or_make_signing_key(data_dir / OPERATOR_KEY)


def _target(data_dir: Path) -> str:
    try:
        return (data_dir / ADDRESS).read_text().strip()
    except OSError as error:
        raise OperatorError(
            f"cannot read {data_dir / ADDRESS} ({error.strerror}): start the coordinator with `serve` first"
        ) from error
