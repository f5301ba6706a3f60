"""The simulated world is what it says, and what decides in it behaves as it must. Small campaigns: how large the
effects are is the business of `tests/benchmarks/decisions.py`."""

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from autoresearch.judging.case import Case
from autoresearch.judging.evidence import Row
from autoresearch.judging.rule import DEFAULT
from autoresearch.judging.spans import ENOUGH_IDENTITIES
from coordinator.cli import main
from coordinator.simulation import report, running, state
from coordinator.simulation.campaign import Campaign, Promotion, Version
from coordinator.simulation.people import People
from coordinator.simulation.proposals import Proposals, Won
from coordinator.simulation.rivals import student_tail, welch
from coordinator.simulation.running import Task
from coordinator.simulation.scenarios import OURS, RIVALS, SCENARIOS, Play, Scenario, play
from coordinator.simulation.spans import Spans
from coordinator.simulation.state import Benches
from coordinator.simulation.world import CARDS, KINDS, MIX, USEFUL, Effect, Nature, World

USUAL = World()
SMALL = World(identities=10, at_once=8)
SIGMA = {card.name: card.noise_bpb for card in CARDS}


def nature(world: World = USUAL) -> Nature:
    return Nature(world, np.random.default_rng(1))


class TestWorld:
    def test_noise_has_the_size_that_is_said(self) -> None:
        own = nature(World(cards=tuple(replace(card, slow=0.0) for card in CARDS)))
        for at, card in enumerate(CARDS):
            drawn = [own.noise(at) for _ in range(20_000)]
            assert statistics.pstdev(drawn) == pytest.approx(card.noise_bpb, rel=0.08)
            assert abs(statistics.fmean(drawn)) < 4.0 * card.noise_bpb / math.sqrt(20_000)

    def test_patches_come_in_the_shares_that_are_said(self) -> None:
        own = nature()
        kinds = [own.effect(0.0).kind for _ in range(5_000)]
        for kind, share in zip(KINDS, MIX, strict=True):
            assert kinds.count(kind) / 5_000 == pytest.approx(share, abs=0.03)

    def test_gains_dry_up_unless_told_otherwise(self) -> None:
        def mean(world: World, so_far: float) -> float:
            own = nature(world)
            effects = [own.effect(so_far) for _ in range(3_000)]
            return statistics.fmean(statistics.fmean(e.gains) for e in effects if e.kind == "large")

        ratio = mean(World(), 0.1) / mean(World(), 0.0)
        assert ratio == pytest.approx(math.exp(-2.0), rel=0.2)
        assert mean(World(drying_bpb=math.inf), 0.1) == pytest.approx(mean(World(), 0.0), rel=0.2)

    def test_where_nothing_helps_nothing_helps(self) -> None:
        own = nature(World(no_gains=True))
        assert {own.effect(0.0).kind for _ in range(1_000)} == {"crash", "harm", "null"}

    def test_everybody_has_a_card_and_every_class_somebody(self) -> None:
        for identities in (6, 40, 160):
            cards = World(identities=identities).classes()
            assert len(cards) == identities
            assert set(cards) == set(range(len(CARDS)))

    @pytest.mark.parametrize("lie", ["flatter", "worse", "ring", "offset", "lazy"])
    def test_a_liar_reports_what_its_strategy_says(self, lie: str) -> None:
        quiet = tuple(replace(card, noise_bpb=1e-9, slow=0.0) for card in CARDS)
        world = World(liars=lie, liar_share=1.0, cards=quiet)
        own = nature(world)
        people = People(world, own, own.rng)
        person, base = people.everybody[0], (0.0,) * len(CARDS)
        candidate = (-0.004,) * len(CARDS)
        seen = people.reports(person, base, candidate, crashes=False, from_ring=lie == "ring")
        level = people.reports_baseline(person, base, None)
        assert seen is not None
        assert level is not None
        expected = {"flatter": 0.002, "worse": -0.014, "ring": 0.006, "offset": -0.004, "lazy": 0.0}[lie]
        assert level - seen == pytest.approx(expected, abs=1e-6)


class TestRivals:
    @pytest.mark.parametrize("t", [-3.0, -0.4, 0.0, 0.7, 2.0, 9.0])
    def test_students_tail(self, t: float) -> None:
        """Its closed forms for one, two and three degrees of freedom, and the normal limit."""
        third = t / math.sqrt(3.0)
        assert student_tail(t, 1.0) == pytest.approx(0.5 - math.atan(t) / math.pi, abs=1e-9)
        assert student_tail(t, 2.0) == pytest.approx(0.5 - t / (2.0 * math.sqrt(2.0 + t * t)), abs=1e-9)
        assert student_tail(t, 3.0) == pytest.approx(
            0.5 - (third / (1.0 + third * third) + math.atan(third)) / math.pi, abs=1e-9
        )
        assert student_tail(t, 100_000.0) == pytest.approx(0.5 * math.erfc(t / math.sqrt(2.0)), abs=1e-4)

    def test_a_clear_difference_is_significant_and_none_is_not(self) -> None:
        assert welch([1.0, 1.01, 0.99], [0.5, 0.51, 0.49]) < 0.001
        assert welch([1.0, 1.01, 0.99], [1.0, 1.01, 0.99]) == pytest.approx(0.5)

    @pytest.mark.parametrize("rule", [*RIVALS, *OURS])
    def test_every_rule_spends_what_it_is_given_and_says_on_what(self, rule: str) -> None:
        outcome = play(rule, Scenario(SMALL, 400), 3)
        assert 400 <= outcome.trials <= 400 + SMALL.at_once
        assert sum(outcome.spent.values()) == outcome.trials
        assert len(outcome.gains) == 1
        assert outcome.trace[0] == (0, 0.0)


class TestSwarm:
    def test_the_same_seed_is_the_same_campaign(self) -> None:
        scenario = Scenario(replace(SMALL, liars="mix", liar_share=0.3), 600)
        assert play("default", scenario, 5) == play("default", scenario, 5)
        assert play("default", scenario, 5) != play("default", scenario, 6)

    def test_it_finds_gains_where_there_are_some(self) -> None:
        quiet = Scenario(replace(SMALL, noise_scale=0.2, drying_bpb=math.inf), 800)
        outcome = play("default", quiet, 1)
        assert outcome.gains[-1] > 0.01
        assert set(outcome.promoted) <= {"large", "small"}

    def test_where_nothing_helps_hardly_anything_is_promoted(self) -> None:
        outcome = play("default", Scenario(replace(SMALL, no_gains=True), 1_000), 1)
        assert sum(outcome.promoted.values()) <= 0.01 * sum(outcome.tested.values())

    def test_who_flatters_patches_is_caught(self) -> None:
        scenario = Scenario(replace(SMALL, liars="flatter", liar_share=0.2, noise_scale=0.3), 1_500, 0.001)
        outcome = play("default", scenario, 2)
        assert (outcome.liars, outcome.caught, outcome.wronged) == (2, 2, 0)

    def test_one_authors_burst_leaves_turns_to_the_others(self) -> None:
        """The crowd's patches take turns with those of forty others: most of what is tested is not the burst."""
        playing = Play("default", Scenario(replace(SMALL, burst=300), 600), 1)
        while not playing.campaign.over:
            playing.step()
        tested = sum(playing.outcome().tested.values())
        assert tested > 150
        assert playing.tested_of("burst") < 0.25 * tested

    @pytest.mark.parametrize("name", ["drifting", "flaky", "six"])
    def test_every_world_can_be_lived_in(self, name: str) -> None:
        scenario = replace(SCENARIOS[name], trials=300)
        assert play("default", scenario, 1).trials >= 300


class TestSpans:
    def test_a_roll_back_concerns_the_promotions_between_its_bases_alone(self) -> None:
        """Also when the audit of those before is over and forgotten."""
        world = World(identities=ENOUGH_IDENTITIES + 1)
        people = People(world, nature(world), np.random.default_rng(1)).everybody
        benches = Benches(people, [card.name for card in world.cards])
        versions = [Version(f"v{at}", at, (0.0,) * len(CARDS)) for at in range(3)]
        for person in people:
            for version, bpb in zip(versions, (1.0, 0.9, 1.2), strict=True):
                benches.at(person.name, version.name).take(bpb, 0)
        spans = Spans()
        spans.begin(versions[0], versions[1], 4)
        assert spans.failed({"v0"}, benches, [], SIGMA, DEFAULT) is None  # so many measured it that it is over
        spans.begin(versions[1], versions[2], 7)
        failed = spans.failed({"v2"}, benches, [people[0].name, people[1].name], SIGMA, DEFAULT)
        assert failed is not None
        assert (failed.first, failed.end) == (4, 7)
        spans.begin_anew(9)
        spans.begin(versions[2], versions[1], 11)
        assert spans.failed({"v2"}, benches, [], SIGMA, DEFAULT) is None


class TestProposals:
    @staticmethod
    def won(number: int, *gains_bpb: float) -> Won:
        """Of identities called by the gain that each saw."""
        patch = state.Tested(
            f"p{number}", "author", Effect("null", (0.0,), (False,)), from_ring=False, base=Version("v0", 0, (0.0,)),
            submitted_at_ms=0, case=Case(SIGMA, replace(DEFAULT, min_classes=1)),
        )  # fmt: skip
        for gain in gains_bpb:
            patch.runs[f"{gain:g}"] = 1
            patch.case.put(0, Row(f"{gain:g}", "m", "H100", (1.0 - gain,), (1.0, 1.0)))
        return Won(number, Promotion(0, "null", (0.0,), 0.0), patch, SIGMA)

    def test_what_has_less_than_half_of_its_evidence_left_goes(self) -> None:
        proposals = Proposals(replace(DEFAULT, min_classes=1))
        hollow, sound, other = (
            self.won(0, 0.0061, 0.0062, 0.0063), self.won(1, 0.0061, 0.0051, 0.0052, 0.0053),
            self.won(2, 0.0051, 0.0052, 0.0053),
        )  # fmt: skip
        for own in (hollow, sound, other):
            proposals.add(own)
        assert list(proposals.heeded(["0.0061"], ["0.0061"])) == []
        assert list(proposals.heeded(["0.0062"], ["0.0061", "0.0062"])) == [hollow]
        hollow.promotion.undone = True
        assert list(proposals.heeded(["0.0062"], ["0.0061", "0.0062"])) == []

    def test_liars_who_are_found_out_leave_the_swarm_with_what_is_good(self) -> None:
        """In one of a few campaigns: that a flatterer's word was needed is not the rule."""
        scenario = Scenario(replace(SMALL, liars="flatter", liar_share=0.3, noise_scale=0.3), 1_500, 0.001)
        again = 0
        for seed in range(8):
            playing = Play("default", scenario, seed)
            while not playing.campaign.over:
                playing.step()
            assert playing.outcome().caught >= 2
            undone = {own.gains for own in playing.campaign.promotions if own.undone and own.kind in USEFUL}
            again += len(undone & {own.gains for own in playing.campaign.promotions if not own.undone})
        assert again  # taken back, and won again

    def test_what_came_later_is_merged_anew_or_goes_back_to_its_author(self) -> None:
        campaign = Campaign(World(), 1, (100,))
        for _ in range(200):
            campaign.promote("large", (0.001,) * len(CARDS))
        campaign.merge_anew(campaign.promotions)
        kept = [own for own in campaign.promotions if not own.undone]
        assert 0.90 * 200 < len(kept) < 200
        assert {round(own.gains[0], 6) for own in kept} == {0.001, 0.0003}

    def test_taking_a_promotion_back_leaves_the_others(self) -> None:
        campaign = Campaign(World(liars="ring", liar_share=0.2), 1, (100,))
        one, bad, two = ((step,) * len(CARDS) for step in (0.001, -0.008, 0.002))
        for kind, gains in (("large", one), ("ring", bad), ("large", two)):
            campaign.promote(kind, gains)
        assert campaign.head.pretended == pytest.approx((0.009,) * len(CARDS))
        still = campaign.take_back(campaign.promotions[:1])
        assert still.gains == pytest.approx((-0.006,) * len(CARDS))
        assert still.pretended == pytest.approx((0.008,) * len(CARDS))
        clean = campaign.take_back(campaign.promotions[1:2])
        assert clean.gains == pytest.approx(two)
        assert clean.pretended is None
        assert [own.undone for own in campaign.promotions] == [True, True, False]


class TestReport:
    def test_figures_are_means_over_campaigns(self) -> None:
        done = [play("alone", Scenario(World(), 2_500), seed) for seed in (1, 2)]
        own = report.figures(done)
        assert own.campaigns == 2
        assert own.gain_2k == pytest.approx(1e3 * statistics.fmean(one.gains[0] for one in done))
        useless = sum(count for one in done for kind, count in one.promoted.items() if kind not in ("small", "large"))
        assert own.false_share == pytest.approx(useless / sum(sum(one.promoted.values()) for one in done))

    def test_several_processes_give_the_same_outcomes(self) -> None:
        tasks = [Task("t-test-5", "any", Scenario(SMALL, 200), seed) for seed in (1, 2)]
        alike = [sorted(running.run(tasks, count), key=lambda item: item[0].seed) for count in (1, 2)]
        assert alike[0] == alike[1]


class TestCommand:
    def test_it_compares_rules_and_draws(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        flags = ["--rule", "alone", "--rule", "default", "--volunteers", "8", "--runs", "200", "--campaigns", "1"]
        result = CliRunner().invoke(main, ["simulate", *flags, "--picture", str(path)])
        assert result.exit_code == 0, result.output
        assert "alone" in result.stdout
        assert "default" in result.stdout
        assert path.read_bytes().startswith(b"\x89PNG")

    def test_json_is_one_object(self) -> None:
        flags = ["--rule", "alone", "--runs", "200", "--campaigns", "2", "--json"]
        result = CliRunner().invoke(main, ["simulate", *flags])
        figures = json.loads(result.stdout)
        assert figures["rules"]["alone"]["campaigns"] == 2
        assert figures["interrupted"] is False

    @pytest.mark.parametrize(
        ("flags", "says"),
        [
            (["--volunteers", "4", "--at-once", "9"], "--at-once 9 is more than there are volunteers (4)"),
            (["--delta", "0.9"], "rule parameter"),
            (["--picture", "/proc/no/such.png", "--runs", "100", "--campaigns", "1", "--rule", "alone"], "picture"),
        ],
    )
    def test_bad_input_is_one_line(self, flags: list[str], says: str) -> None:
        result = CliRunner().invoke(main, ["simulate", *flags])
        assert result.exit_code == 1
        (line,) = result.stderr.strip().splitlines()
        assert line.startswith("error: ")
        assert says in line

    @pytest.mark.parametrize("flags", [["--runs", "1"], ["--liar-share", "2"], ["--rule", "magic"], ["--seed", "-1"]])
    def test_values_out_of_bounds_are_refused(self, flags: list[str]) -> None:
        assert CliRunner().invoke(main, ["simulate", *flags]).exit_code == 2

    def test_ctrl_c_reports_what_was_done(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = running.run

        def interrupted(tasks, processes):  # type: ignore[no-untyped-def]  # as `running.run`
            yield next(iter(real(tasks, processes)))
            raise KeyboardInterrupt

        monkeypatch.setattr(running, "run", interrupted)
        result = CliRunner().invoke(
            main, ["simulate", "--rule", "alone", "--runs", "100", "--campaigns", "3", "--json"]
        )
        assert result.exit_code == 130
        assert json.loads(result.stdout)["interrupted"] is True
        assert "1 of 3 campaigns were done" in result.stderr
