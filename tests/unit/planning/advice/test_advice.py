"""Advice on a change of batch: the learning rates are the training's own, and what goes with them follows the rules."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gpuplan.core.errors import UsageError
from gpuplan.core.frozen import Unknown
from gpuplan.planning.advice.advice import Advice, Question, advise, default_policy
from gpuplan.planning.advice.batch_ways import Machine
from gpuplan.planning.advice.parts import Accumulation, Change, Updates
from gpuplan.workload.schema import MOST_ACCUMULATION
from gpuplan_job import transfer
from gpuplan_job.transfer.base import Transfer

BATCHES = st.integers(1, 100_000)
NOISE = st.floats(0, 1e9, allow_subnormal=False)
MACHINES = st.just(Machine()) | st.just(Machine(instance="g5", gpu="A10G", gpus=1, memory_gib=22.4))
QUESTIONS = st.builds(
    Question,
    from_batch=BATCHES,
    to_batch=BATCHES,
    learning_rate=st.floats(1e-6, 10),
    optimizer=st.sampled_from(["sgd", "adamw"]),
    fixed=st.sampled_from(["epochs", "steps"]),
    noise_scale=st.none() | NOISE,
    machine=MACHINES,
    epochs=st.none() | st.integers(1, 300),
    samples=st.none() | st.integers(1, 10**7),
    weight_decay=st.floats(0, 0.5),
    dropout=st.none() | st.floats(0, 0.99),
    label_smoothing=st.floats(0, 0.9),
    norm=st.sampled_from(["batch", "group", "layer", "none", "unknown"]),
    finetune=st.booleans(),
)
HAIR = 1 + 1e-9


def asked(from_batch: int = 64, to_batch: int = 256, learning_rate: float = 0.1, **more: object) -> Advice:
    given = {"from_batch": from_batch, "to_batch": to_batch, "learning_rate": learning_rate}
    return advise(Question.model_validate(given | more))


def rate(advice: Advice, rule: str) -> float:
    value = advice.learning_rate[rule]
    assert isinstance(value, float)
    return value


def parts(advice: Advice) -> Accumulation:
    assert isinstance(advice.accumulation, Accumulation)
    return advice.accumulation


def changed(value: Change | Unknown) -> Change:
    assert isinstance(value, Change)
    return value


def no_null(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(no_null, value.values()))
    if isinstance(value, list):
        return all(map(no_null, value))
    return value is not None


@given(QUESTIONS)
def test_every_question_has_an_answer_without_a_null_that_is_read_back_as_it_was(question: Question) -> None:
    advice = advise(question)
    text = json.dumps(advice.document(), allow_nan=False)
    assert no_null(json.loads(text))
    assert Advice.model_validate_json(text) == advice


@given(QUESTIONS, NOISE)
def test_the_learning_rates_are_those_of_the_trainings_own_policies(question: Question, noise: float) -> None:
    advice = advise(question.model_copy(update={"noise_scale": noise}))
    change = Transfer(question.from_batch, question.to_batch, noise)
    expected = {
        name.replace("-", "_"): question.learning_rate * transfer.load(name).multiplier(change)
        for name in transfer.names()
        if name != "accumulate"  # it goes by a range test, which an advice does not have
    }
    assert advice.learning_rate == expected


@given(QUESTIONS)
def test_the_square_root_lies_between_none_and_linear(question: Question) -> None:
    advice = advise(question)
    low, high = sorted((rate(advice, "none"), rate(advice, "linear")))
    assert low / HAIR <= rate(advice, "sqrt") <= high * HAIR


@given(QUESTIONS, NOISE)
def test_the_noise_scale_of_sgd_lies_between_none_and_linear(question: Question, noise: float) -> None:
    advice = advise(question.model_copy(update={"noise_scale": noise, "optimizer": "sgd"}))
    low, high = sorted((rate(advice, "none"), rate(advice, "linear")))
    assert low / HAIR <= rate(advice, "noise_scale") <= high * HAIR


@given(QUESTIONS, BATCHES)
def test_a_larger_batch_never_gets_a_smaller_lr_or_less_regularisation(question: Question, more: int) -> None:
    larger = advise(question.model_copy(update={"to_batch": question.to_batch + more, "samples": None}))
    advice = advise(question)
    assert larger.chosen.learning_rate >= advice.chosen.learning_rate / HAIR
    assert larger.regularisation.factor >= advice.regularisation.factor
    for one, two in (
        (advice.regularisation.weight_decay, larger.regularisation.weight_decay),
        (advice.regularisation.dropout, larger.regularisation.dropout),
        (advice.regularisation.label_smoothing, larger.regularisation.label_smoothing),
    ):
        if isinstance(one, Change) and isinstance(two, Change):
            assert two.after >= one.after / HAIR


@given(QUESTIONS)
def test_rules_are_listed_from_the_one_that_moves_the_lr_least(question: Question) -> None:
    known = [rule.multiplier for rule in advise(question).rules if not isinstance(rule.multiplier, Unknown)]
    distances = [abs(math.log(multiplier)) for multiplier in known]
    assert distances == sorted(distances)


@given(QUESTIONS)
def test_every_way_makes_up_the_batch_with_at_most_sixteen_micro_batches(question: Question) -> None:
    found = advise(question).accumulation
    if isinstance(found, Unknown):
        return
    for way in found.ways:
        assert way.global_batch == question.to_batch
        assert way.accumulation <= MOST_ACCUMULATION
    if found.keep is not None:
        assert found.keep.global_batch == question.from_batch
        assert found.keep.per_gpu == found.ways[0].per_gpu


def test_four_times_the_batch_is_the_example_of_the_papers() -> None:
    advice = asked(noise_scale=1e9)
    assert advice.ratio == 4
    assert rate(advice, "none") == 0.1
    assert rate(advice, "sqrt") == pytest.approx(0.2)
    assert rate(advice, "linear") == pytest.approx(0.4)
    assert rate(advice, "noise_scale") == pytest.approx(0.4, rel=1e-6)


def test_what_is_chosen_is_what_a_run_applies_by_default() -> None:
    advice = asked(noise_scale=784.0)
    assert advice.chosen.policy == default_policy() == "sqrt"
    assert advice.chosen.learning_rate == rate(advice, "sqrt")


def test_an_unmeasured_noise_scale_is_unknown_says_how_to_measure_it() -> None:
    advice = asked()
    found = advice.learning_rate["noise_scale"]
    assert isinstance(found, Unknown)
    assert "gpuplan launch --pipeline lr" in found.unknown
    assert isinstance(advice.to_same_loss, Unknown)


def test_with_fixed_steps_the_learning_rate_stays_and_so_needs_no_warm_up() -> None:
    advice = asked(fixed="steps", to_batch=2048, epochs=5, samples=50_000)
    assert (advice.chosen.policy, advice.chosen.learning_rate) == ("none", 0.1)
    assert advice.warmup.verdict == "no"


def test_fixed_epochs_take_fewer_steps_and_fixed_steps_take_more_epochs() -> None:
    epochs = asked(epochs=10, samples=64_000).updates
    assert isinstance(epochs, Updates)
    assert (epochs.steps, epochs.epochs) == ((10_000, 2_500), (10, 10))
    steps = asked(epochs=10, samples=64_000, fixed="steps").updates
    assert isinstance(steps, Updates)
    assert (steps.steps, steps.epochs) == ((10_000, 10_000), (10, 40))


def test_steps_cannot_be_counted_where_the_data_do_not_fill_a_batch() -> None:
    updates = asked(epochs=10, samples=100).updates
    assert isinstance(updates, Unknown)
    assert "100 training samples" in updates.unknown


def test_a_noise_scale_tells_what_the_same_loss_takes() -> None:
    factor = asked(noise_scale=64.0).to_same_loss
    assert not isinstance(factor, Unknown)
    assert factor.samples_factor == pytest.approx((256 + 64) / (64 + 64))
    assert factor.steps_factor == pytest.approx((1 + 64 / 256) / (1 + 64 / 64))


@pytest.mark.parametrize(
    ("to_batch", "verdict"),
    [(16, "no"), (64, "no"), (128, "no"), (256, "maybe"), (511, "maybe"), (512, "yes"), (1024, "required")],
)
def test_warm_up_follows_the_ratio(to_batch: int, verdict: str) -> None:
    assert asked(to_batch=to_batch).warmup.verdict == verdict


def test_past_8192_a_rising_lr_must_warm_up_and_a_layer_wise_optimizer_is_named() -> None:
    assert asked(8000, 8192).warmup.verdict == "no"
    assert not asked(8000, 8192).large_batch.exceeded
    sgd, adamw = asked(8000, 8194), asked(8000, 8194, optimizer="adamw")
    assert sgd.warmup.verdict == "required"
    assert (sgd.large_batch.optimizer, adamw.large_batch.optimizer) == ("LARS", "LAMB")
    assert sgd.large_batch.exceeded
    assert "You et al. 2020" in {source.name for source in sgd.sources}


def test_a_warm_up_is_five_epochs_but_no_more_than_a_tenth_of_the_training() -> None:
    long, short = (asked(to_batch=1024, epochs=epochs, samples=102_400).warmup for epochs in (90, 20))
    assert (long.epochs, long.steps) == (5.0, 500)
    assert (short.epochs, short.steps) == (2.0, 200)
    assert isinstance(asked(to_batch=1024).warmup.epochs, Unknown)


def test_weight_decay_and_dropout_grow_with_the_root_dropout_to_a_half() -> None:
    rules = asked(weight_decay=1e-4, dropout=0.1).regularisation
    assert changed(rules.weight_decay).after == pytest.approx(2e-4)
    assert changed(rules.dropout).after == pytest.approx(0.2)
    assert rules.label_smoothing.after == 0.1
    assert changed(asked(dropout=0.4).regularisation.dropout).after == 0.5
    assert changed(asked(dropout=0.6).regularisation.dropout).after == 0.6


def test_a_weight_decay_past_one_is_unknown() -> None:
    assert isinstance(asked(1, 10_000, weight_decay=0.1).regularisation.weight_decay, Unknown)


def test_a_smaller_batch_turns_the_rules_round() -> None:
    advice = asked(256, 64, weight_decay=1e-3, dropout=0.4, label_smoothing=0.1)
    assert advice.chosen.learning_rate == pytest.approx(0.05)
    assert advice.warmup.verdict == "no"
    assert changed(advice.regularisation.weight_decay).after == pytest.approx(5e-4)
    assert changed(advice.regularisation.dropout).after == pytest.approx(0.2)
    assert advice.regularisation.label_smoothing.after == 0.1
    assert advice.accuracy_gap == ()
    keep = parts(advice).keep
    assert keep is not None
    assert (keep.per_gpu, keep.accumulation, keep.global_batch) == (64, 4, 256)


def test_the_same_batch_changes_nothing() -> None:
    advice = asked(256, 256, weight_decay=1e-4, dropout=0.1, label_smoothing=0.05)
    assert set(advice.learning_rate.values()) == {0.1}
    assert advice.warmup.verdict == "no"
    assert changed(advice.regularisation.weight_decay).after == 1e-4
    assert changed(advice.regularisation.dropout).after == 0.1
    assert advice.regularisation.label_smoothing.after == 0.05


@pytest.mark.parametrize(
    ("per_gpu", "norm", "verdict"),
    [(8, "batch", "small"), (16, "batch", "ok"), (8, "unknown", "small"), (8, "group", "not-used")],
)
def test_batchnorm_wants_sixteen_samples_of_a_micro_batch(per_gpu: int, norm: str, verdict: str) -> None:
    advice = asked(to_batch=per_gpu * 4, per_gpu_batch=per_gpu, machine=Machine(gpus=4), norm=norm)
    assert advice.batchnorm.verdict == verdict
    assert ("Wu and He 2018" in {source.name for source in advice.sources}) == (verdict == "small")


def test_accumulating_does_not_help_batchnorm_and_costs_time() -> None:
    advice = asked(to_batch=128, per_gpu_batch=8, machine=Machine(gpus=1))
    assert advice.batchnorm.verdict == "small"
    assert parts(advice).time_factor == (1.5, 2.0)


def test_fine_tuning_wants_small_batches_and_a_much_smaller_lr() -> None:
    advice = asked(64, 32, finetune=True).finetuning
    assert advice is not None
    assert advice.in_range
    assert advice.learning_rate == pytest.approx(0.1 * math.sqrt(0.5) / 10)
    outside = asked(finetune=True).finetuning
    assert outside is not None
    assert not outside.in_range


def test_settings_that_cannot_make_up_the_batch_are_refused_with_ones_that_can() -> None:
    with pytest.raises(UsageError, match="no multiple of 64 a GPU x 3 GPUs") as refused:
        asked(per_gpu_batch=64, machine=Machine(gpus=3))
    assert refused.value.fix == "--to-batch 192 or --to-batch 384"
    with pytest.raises(UsageError, match="32 micro-batches") as many:
        asked(to_batch=2048, per_gpu_batch=32, machine=Machine(gpus=2))
    assert "--to-batch 1024" in many.value.fix


@pytest.mark.parametrize("wrong", [{"from_batch": 0}, {"learning_rate": 0.0}, {"dropout": 1.0}, {"noise_scale": -1.0}])
def test_a_question_out_of_range_is_no_question(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        asked(**wrong)  # type: ignore[arg-type] # wrong on purpose
