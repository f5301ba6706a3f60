"""Who may do what, how often, and the strings that prove it: the pure rules."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from autoresearch import envelope, limits, work
from autoresearch.digest import key_id
from autoresearch.v1 import (
    access_service_pb2,
    leaderboard_service_pb2,
    operator_service_pb2,
    patch_service_pb2,
    volunteer_service_pb2,
)
from autoresearch.v1.operator_pb2 import Instruction
from coordinator import tokens
from coordinator.access import BY_ENROLMENT, CALLS, INSTRUCTIONS, By, Role, objection, roles_of
from coordinator.errors import OperatorError
from coordinator.inspection import FINDINGS_MOST, findings
from coordinator.quotas import address_of, spoken_wait
from coordinator.settings import Enrolment

FILES = (
    access_service_pb2,
    leaderboard_service_pb2,
    operator_service_pb2,
    patch_service_pb2,
    volunteer_service_pb2,
)
KEY = tokens.key_of(Ed25519PrivateKey.from_private_bytes(b"k" * 32), "session token")
WHO = key_id(b"w" * 32)
ROLES = st.sampled_from(list(Role))


class TestTable:
    def test_every_call_that_is_served_is_in_it_and_nothing_else(self) -> None:
        served = {
            f"/{service.full_name}/{method.name}"
            for file in FILES
            for service in file.DESCRIPTOR.services_by_name.values()
            for method in service.methods
        }
        assert set(CALLS) == served

    def test_every_instruction_is_in_it_and_nothing_else(self) -> None:
        assert set(INSTRUCTIONS) == {field.name for field in Instruction.DESCRIPTOR.oneofs_by_name["action"].fields}

    def test_what_needs_a_role_needs_a_proof(self) -> None:
        assert all(terms.by is not By.NOTHING for terms in CALLS.values() if terms.roles)

    def test_only_operators_grant_roles(self) -> None:
        assert INSTRUCTIONS["grant"] == INSTRUCTIONS["ban"] == {Role.OPERATOR}


class TestRoles:
    @given(st.booleans(), st.dictionaries(ROLES, st.booleans()))
    def test_whoever_is_banned_has_none(self, enrolled: bool, changes: dict[Role, bool]) -> None:
        assert roles_of(enrolled=enrolled, changes=changes, banned=True) == frozenset()

    @given(st.booleans(), st.dictionaries(ROLES, st.booleans()))
    def test_the_last_order_about_a_role_decides(self, enrolled: bool, changes: dict[Role, bool]) -> None:
        held = roles_of(enrolled=enrolled, changes=changes, banned=False)
        assert all((role in held) == holds for role, holds in changes.items())
        assert held - changes.keys() == ((BY_ENROLMENT if enrolled else frozenset()) - changes.keys())

    def test_nobody_becomes_staff_by_enrolling(self) -> None:
        assert not roles_of(enrolled=True, changes={}, banned=False) & {Role.APPROVER, Role.OPERATOR}

    @pytest.mark.parametrize(
        ("held", "wanted", "enrolled", "ban", "says"),
        [
            ((), (), False, None, ""),
            ((), (), False, "spam", "shut out by the operator: spam"),
            (("author",), ("author",), True, None, ""),
            ((), ("author",), False, None, "enroll first"),
            ((), ("author",), True, None, "needs the role author"),
            (("author",), ("operator", "approver"), True, None, "needs the role approver or operator"),
        ],
    )
    def test_an_objection_says_what_to_do(
        self, held: tuple[str, ...], wanted: tuple[str, ...], enrolled: bool, ban: str | None, says: str
    ) -> None:
        said = objection([Role(r) for r in held], frozenset(map(Role, wanted)), enrolled=enrolled, banned=ban)
        assert says in said
        assert bool(said) == bool(says)


class TestTokens:
    def test_a_token_speaks_for_its_identity_until_it_ends(self) -> None:
        token = tokens.make_token(KEY, WHO, 1000)
        assert tokens.read_token(KEY, token, 1000) == WHO
        with pytest.raises(tokens.TokenError, match="too old: authenticate again"):
            tokens.read_token(KEY, token, 1001)

    @given(st.integers(0, 87), st.integers(1, 255))
    def test_no_other_token_is_believed(self, at: int, change: int) -> None:
        token = bytearray(tokens.make_token(KEY, WHO, 1000).encode())
        token[at % len(token)] ^= change
        with pytest.raises(tokens.TokenError):
            tokens.read_token(KEY, token.decode("latin-1"), 0)

    @given(st.text(max_size=200))
    def test_any_text_is_refused_and_raises_nothing_else(self, text: str) -> None:
        with pytest.raises(tokens.TokenError):
            tokens.read_token(KEY, text, 0)

    def test_a_token_of_another_swarm_is_refused(self) -> None:
        other = tokens.key_of(Ed25519PrivateKey.from_private_bytes(b"o" * 32), "session token")
        with pytest.raises(tokens.TokenError, match="not of this swarm"):
            tokens.read_token(KEY, tokens.make_token(other, WHO, 1000), 0)

    def test_keys_of_different_purposes_differ(self) -> None:
        key = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
        assert tokens.key_of(key, "a") != tokens.key_of(key, "b")

    @pytest.mark.parametrize(("at_ms", "good"), [(999, False), (1000, True), (61_000, True), (61_001, False)])
    def test_a_nonce_is_good_for_a_minute(self, at_ms: int, good: bool) -> None:
        nonce = tokens.make_nonce(KEY, b"r" * 32, 1000)
        assert len(nonce) == limits.ACCESS_NONCE_BYTES
        if good:
            tokens.check_nonce(KEY, nonce, at_ms)
        else:
            with pytest.raises(tokens.TokenError, match="too old"):
                tokens.check_nonce(KEY, nonce, at_ms)

    @given(st.binary(max_size=80))
    def test_any_bytes_are_no_nonce(self, data: bytes) -> None:
        with pytest.raises(tokens.TokenError):
            tokens.check_nonce(KEY, data, 0)


class TestQuotas:
    @pytest.mark.parametrize(
        ("peer", "address"),
        [
            ("ipv4:203.0.113.7:5000", "203.0.113.7"),
            ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:5000", "2001:db8:1:2::/64"),
            ("ipv6:[2001:db8::7]:5000", "2001:db8::/64"),
            ("ipv6:%5B::ffff:203.0.113.7%5D:5000", "203.0.113.7"),
            ("unix:/run/x.sock", "unix"),
            ("", "unknown"),
            ("ipv4:nonsense", "ipv4"),
        ],
    )
    def test_what_counts_as_one_address(self, peer: str, address: str) -> None:
        assert address_of(peer) == address

    @pytest.mark.parametrize(("wait_ms", "said"), [(1, "1 s"), (1001, "2 s"), (119_000, "119 s"), (600_000, "10 min")])
    def test_waits_as_people_say_them(self, wait_ms: int, said: str) -> None:
        assert spoken_wait(wait_ms) == said


class TestWork:
    def test_an_answer_holds_for_its_key_and_swarm_alone(self) -> None:
        asked = work.question("swarm", b"k" * 32)
        answer = work.solve(asked, 2, lambda _: True)
        assert answer is not None
        assert work.holds(asked, answer, 2)
        others = [work.question("swarm", bytes([n]) * 32) for n in range(6)]
        assert not all(work.holds(other, answer, 2) for other in others)

    @pytest.mark.parametrize("answer", [b"", b"x", b"x" * 9, b"x" * 1000])
    def test_an_answer_of_another_size_costs_nothing_to_refuse(self, answer: bytes) -> None:
        assert not work.holds(work.question("swarm", b"k" * 32), answer, 1)

    def test_solving_ends_when_it_is_told_to(self) -> None:
        assert work.solve(b"q" * 32, 64, lambda tries: tries < 2) is None

    @pytest.mark.parametrize("word", ["", "none", "work:", "work:0", "work:17", "work:x", "work:1.5", "Work"])
    def test_terms_that_are_none(self, word: str) -> None:
        if word == "work:":
            assert Enrolment.of(word).work_bits  # the usual ones
        else:
            with pytest.raises(OperatorError, match="--enrolment"):
                Enrolment.of(word)


class TestInspection:
    BASE = "import math\nimport torch\n"

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ("import socket", "the network"),
            ("from urllib.request import urlopen", "the network"),
            ("import subprocess as s", "other processes"),
            ("from os import path", "files and processes"),
            ("x = open('/etc/passwd')", "files"),
            ("eval('1')", "text as code"),
            ("__import__('os')", "modules by name"),
            ("x = torch.load('w')", "pickles"),
            ("import trainer.session", "the trial's own code"),
            ("x = ().__class__.__bases__", "the interpreter"),
            ("import asyncio", "the network"),
            ("import something_nobody_knows", "imports something_nobody_knows (not what training needs)"),
            ("from . import helper", "not what training needs"),
            ("import torch.distributed as d", "imports torch.distributed (the network)"),
            ("from torch import hub", "imports torch.hub (the network)"),
            ("from torch import *", "names unseen"),
            ("from torch.utils import cpp_extension", "or other code"),
            ("import torch.utils.cpp_extension", "or other code"),
            ("torch.ops.load_library('x.so')", "or other code"),
            ("import numpy as n; n.fromfile('x')", "uses numpy.fromfile (files)"),
            ("from torch import serialization as s", "pickles"),
            ("f = open", "names open (files)"),
            ("x = __builtins__", "the interpreter"),
            ("x = getattr(torch, 'load')", "uses torch.load (pickles)"),
            ("x = getattr(torch, 'lo' + 'ad')", "a name made at run time"),
        ],
    )
    def test_what_reaches_outside_is_named_with_its_line(self, line: str, says: str) -> None:
        first, *_ = findings(self.BASE + line)
        assert first.startswith("line 3: ")
        assert says in first

    def test_what_the_base_does_is_not_new(self) -> None:
        assert findings("import os\nimport socket\n", "import os\n") == ("line 2: imports socket (the network)",)

    def test_another_use_of_what_the_base_imports_is_new(self) -> None:
        base = "import os\nx = os.cpu_count()\n"
        assert findings(base + "os.system('x')\n", base) == ("line 3: uses os.system (files and processes)",)
        assert findings(base + "import os\n", base) == ()

    def test_a_parameter_of_such_a_name_is_none(self) -> None:
        assert findings("def forward(self, input):\n    return input + 1\n") == ()

    def test_ordinary_training_code_has_none(self) -> None:
        source = (Path(__file__).resolve().parents[2] / "trainer" / "train.py").read_text()
        assert findings(source, source) == ()
        assert not findings(self.BASE + "def main(session):\n    return torch.nn.Linear(2, 2)\n")

    def test_they_are_bounded(self) -> None:
        found = findings("\n".join(f"x{n} = a.__m{n}__" for n in range(100)))
        assert len(found) == FINDINGS_MOST
        assert found[-1] == "and 81 more: read the source"  # nothing is left out unsaid

    def test_a_name_of_any_length_is_read_in_time(self) -> None:
        assert findings("x = a" + ".b" * 500) == ()


def test_instructions_are_signed_as_such() -> None:
    key = Ed25519PrivateKey.generate()
    signed = envelope.sign(Instruction(protocol=1), envelope.INSTRUCTION, key)
    with pytest.raises(envelope.EnvelopeError):
        envelope.verify(signed, envelope.WITHDRAWAL)
