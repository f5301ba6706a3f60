"""What an operator may set: every wrong value is one line that names the setting and what it should be."""

import math
from pathlib import Path
from typing import Any

import pytest

from autoresearch.judging.rule import PRESETS
from coordinator.errors import OperatorError
from coordinator.settings import Settings, Terms, split_address

DATA = Path("swarm")


def test_the_defaults_stand() -> None:
    assert Settings(DATA).lease_s == 120.0
    assert Terms().parsed_rule() == PRESETS["default"]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"listen": "localhost"}, "--listen"),
        ({"listen": ":50600"}, "--listen"),
        ({"listen": "host:65536"}, "--listen"),
        ({"listen": "host:-1"}, "--listen"),
        ({"listen": "host:port"}, "--listen"),
        ({"listen": "host:5 0"}, "--listen"),
        ({"listen": "host:٥٠"}, "--listen"),
        ({"listen": "::1:50600"}, "--listen"),
        ({"listen": "a/b:1"}, "--listen"),
        ({"listen": "host:1\n"}, "--listen"),
        ({"public": "swarm.example"}, "--public"),
        ({"public": "https://swarm.example:443"}, "--public"),
        ({"tls_certificate": Path("a")}, "--tls-certificate and --tls-key"),
        ({"tls_key": Path("a")}, "--tls-certificate and --tls-key"),
        ({"lease_s": 1.9}, "--lease"),
        ({"lease_s": 3601.0}, "--lease"),
        ({"lease_s": -1.0}, "--lease"),
        ({"lease_s": math.nan}, "--lease"),
        ({"lease_s": math.inf}, "--lease"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(fields: dict[str, Any], names: str) -> None:
    with pytest.raises(OperatorError, match=names) as error:
        Settings(DATA, **fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"name": ""}, "--name"),
        ({"name": "Upper"}, "--name"),
        ({"name": "-dash"}, "--name"),
        ({"name": "x" * 41}, "--name"),
        ({"name": "tiny\n"}, "--name"),
        ({"budget_s": 0.5}, "--budget"),
        ({"budget_s": 1e9}, "--budget"),
        ({"budget_s": math.nan}, "--budget"),
        ({"rule": "generous"}, "--rule"),
        ({"first_baselines": 0}, "--baselines"),
        ({"first_baselines": 7}, "--baselines"),
        ({"noise_prior_bpb": -0.1}, "--noise"),
        ({"noise_prior_bpb": 2.0}, "--noise"),
        ({"noise_prior_bpb": math.nan}, "--noise"),
        ({"delta_bpb": -0.1}, "--delta"),
        ({"delta_bpb": 1e9}, "--delta"),
        ({"delta_bpb": math.nan}, "--delta"),
        ({"delta_bpb": math.inf}, "--delta"),
    ],
    ids=str,
)
def test_a_wrong_term_is_named(fields: dict[str, Any], names: str) -> None:
    with pytest.raises(OperatorError, match=names) as error:
        Terms(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("0.0.0.0:50600", "0.0.0.0", 50600),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("[::]:65535", "[::]", 65535),
        ("[fe80::1]:1", "[fe80::1]", 1),
        ("swarm.example-1.org:443", "swarm.example-1.org", 443),
    ],
)
def test_an_address_is_split(address: str, host: str, port: int) -> None:
    assert split_address("--listen", address) == (host, port)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_can_be_scaled_to_a_wished_gain(name: str) -> None:
    rule = Terms(rule=name, delta_bpb=0.005).parsed_rule()
    assert rule.delta_bpb == 0.005
    assert Terms(rule=name).parsed_rule() == PRESETS[name]
