"""Fixtures of the hostile tests: the same real swarms that the integration tests run."""

from tests.integration.conftest import made_swarm, no_known_answers, starter, swarm

__all__ = ["made_swarm", "no_known_answers", "starter", "swarm"]
