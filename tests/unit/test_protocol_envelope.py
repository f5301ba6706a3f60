"""The signed envelope: the DSSE specification's vector, an independent Ed25519 one, and every way to tamper with it."""

import base64
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from autoresearch import envelope, limits
from autoresearch.digest import key_id
from autoresearch.envelope import EnvelopeError, open_as, pae, public_bytes, sign, verify
from autoresearch.v1.envelope_pb2 import Envelope, Signature
from autoresearch.v1.identity_pb2 import Enrolment
from autoresearch.v1.volunteer_service_pb2 import SwarmInfo

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
HELLO_TYPE, HELLO = "http://example.com/HelloWorld", b"hello world"
INFO = SwarmInfo(protocol=1, swarm_id="s" * 32, challenge_sha256="c" * 64)


def signed() -> Envelope:
    return sign(INFO, envelope.SWARM_INFO, KEY)


class TestEncoding:
    def test_the_specifications_example(self) -> None:
        assert pae(HELLO_TYPE, HELLO) == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"

    def test_the_specifications_signature_holds_over_it(self) -> None:
        """ECDSA over P-256, the only vector that the specification gives: our encoding, somebody else's signature."""
        x = 46950820868899156662930047687818585632848591499744589407958293238635476079160
        y = 5640078356564379163099075877009565129882514886557779369047442380624545832820
        raw = base64.b64decode(
            "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="
        )
        signature = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
        key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        key.verify(signature, pae(HELLO_TYPE, HELLO), ec.ECDSA(hashes.SHA256()))

    @pytest.mark.parametrize(
        ("kind", "payload", "encoded"),
        [
            ("", b"", b"DSSEv1 0  0 "),
            ("tybé", b"x", b"DSSEv1 5 tyb\xc3\xa9 1 x"),  # lengths count bytes, not characters
            ("a", b"\x00\xff", b"DSSEv1 1 a 2 \x00\xff"),
        ],
    )
    def test_lengths_are_of_bytes(self, kind: str, payload: bytes, encoded: bytes) -> None:
        assert pae(kind, payload) == encoded

    @given(st.text(), st.binary(), st.text(), st.binary())
    def test_no_two_pairs_share_an_encoding(self, kind: str, payload: bytes, kind2: str, payload2: bytes) -> None:
        assert (pae(kind, payload) == pae(kind2, payload2)) == ((kind, payload) == (kind2, payload2))

    @given(st.text(max_size=20), st.binary(max_size=20), st.integers(0, 20))
    def test_moving_the_border_between_type_and_payload_changes_it(self, kind: str, payload: bytes, cut: int) -> None:
        joined = kind.encode() + payload
        moved = (joined[:cut].decode(errors="replace"), joined[cut:])
        assert (pae(*moved) == pae(kind, payload)) == (moved == (kind, payload))


class TestSignature:
    def test_another_implementation_makes_the_same_one(self) -> None:
        """Key of RFC 8032, section 7.1, test 1; signature made with `openssl pkeyutl -sign -rawin`."""
        key = Ed25519PrivateKey.from_private_bytes(
            bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
        )
        value = bytes.fromhex(
            "e031d7dd99f8aa904abc48fb99a13c3bdbbd6e35c49cf2cb9f25d5509d8f5c94"
            "7c0d22dc2f7403a45bdf24e8f7a41fd23c7b25e898386e8c6c31be8abee60007"
        )
        signature = Signature(public_key=public_bytes(key), value=value)
        verified = verify(Envelope(payload=HELLO, payload_type=HELLO_TYPE, signatures=[signature]), HELLO_TYPE)
        assert verified.payload == HELLO
        assert key.sign(pae(HELLO_TYPE, HELLO)) == value

    def test_what_was_signed_comes_back_with_its_signer(self) -> None:
        message, verified = open_as(signed(), envelope.SWARM_INFO, SwarmInfo)
        assert message == INFO
        assert verified.signer_id == key_id(public_bytes(KEY))

    def test_it_survives_the_wire(self) -> None:
        travelled = Envelope.FromString(signed().SerializeToString())
        assert open_as(travelled, envelope.SWARM_INFO, SwarmInfo)[0] == INFO


def flip(data: bytes, position: int, mask: int) -> bytes:
    position %= len(data)
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


FLIPS = given(position=st.integers(0, 2**16), mask=st.integers(1, 255))


class TestTampering:
    @FLIPS
    def test_any_byte_of_the_payload(self, position: int, mask: int) -> None:
        changed = signed()
        changed.payload = flip(changed.payload, position, mask)
        with pytest.raises(EnvelopeError, match="does not match"):
            verify(changed, envelope.SWARM_INFO)

    @FLIPS
    def test_any_byte_of_the_signature(self, position: int, mask: int) -> None:
        changed = signed()
        changed.signatures[0].value = flip(changed.signatures[0].value, position, mask)
        with pytest.raises(EnvelopeError, match="does not match"):
            verify(changed, envelope.SWARM_INFO)

    @FLIPS
    def test_any_byte_of_the_key(self, position: int, mask: int) -> None:
        changed = signed()
        changed.signatures[0].public_key = flip(changed.signatures[0].public_key, position, mask)
        with pytest.raises(EnvelopeError, match="does not match"):
            verify(changed, envelope.SWARM_INFO)

    @given(position=st.integers(0, 2**16), mask=st.integers(1, 127))
    def test_any_character_of_the_type(self, position: int, mask: int) -> None:
        changed = signed()
        changed.payload_type = flip(changed.payload_type.encode(), position, mask & 0x7F).decode()
        with pytest.raises(EnvelopeError, match="does not match"):
            verify(changed, changed.payload_type)  # even to a reader who expects the changed type
        with pytest.raises(EnvelopeError, match="is not a"):
            verify(changed, envelope.SWARM_INFO)

    @given(st.binary(min_size=1, max_size=64))
    def test_anything_appended(self, tail: bytes) -> None:
        changed = signed()
        changed.payload += tail
        with pytest.raises(EnvelopeError, match="does not match"):
            verify(changed, envelope.SWARM_INFO)

    def test_another_persons_signature(self) -> None:
        changed = signed()
        other = Ed25519PrivateKey.from_private_bytes(bytes(32))
        changed.signatures[0].public_key = public_bytes(other)
        with pytest.raises(EnvelopeError, match="does not match"):
            verify(changed, envelope.SWARM_INFO)


def without_signature(changed: Envelope) -> None:
    changed.ClearField("signatures")


def signed_twice(changed: Envelope) -> None:
    changed.signatures.append(changed.signatures[0])


def short_key(changed: Envelope) -> None:
    changed.signatures[0].public_key = changed.signatures[0].public_key[:31]


def long_signature(changed: Envelope) -> None:
    changed.signatures[0].value += b"\0"


def too_large(changed: Envelope) -> None:
    changed.payload = bytes(limits.ENVELOPE_BYTES + 1)


class TestForm:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (without_signature, "0 signatures"),
            (signed_twice, "2 signatures"),
            (short_key, "32 bytes"),
            (long_signature, "64"),
            (too_large, "at most 1048576"),
        ],
    )
    def test_it_is_checked_before_the_signature(self, change: Callable[[Envelope], None], said: str) -> None:
        changed = signed()
        change(changed)
        with pytest.raises(EnvelopeError, match=said):
            verify(changed, envelope.SWARM_INFO)

    def test_one_kind_of_message_cannot_stand_in_for_another(self) -> None:
        with pytest.raises(EnvelopeError, match=r"is not a application/vnd\.autoresearch\.enrolment"):
            open_as(signed(), envelope.ENROLMENT, Enrolment)

    def test_every_kind_has_its_own_type(self) -> None:
        kinds = [value for name, value in vars(envelope).items() if name.isupper() and isinstance(value, str)]
        assert len(kinds) == len(set(kinds)) >= 7

    def test_signed_garbage_does_not_parse(self) -> None:
        payload = b"\xff\xff\xff"
        signature = Signature(public_key=public_bytes(KEY), value=KEY.sign(pae(envelope.SWARM_INFO, payload)))
        garbage = Envelope(payload=payload, payload_type=envelope.SWARM_INFO, signatures=[signature])
        with pytest.raises(EnvelopeError, match="does not parse as SwarmInfo"):
            open_as(garbage, envelope.SWARM_INFO, SwarmInfo)
