import numpy as np
import pytest

from rollout.model.canonical import digest_bytes
from rollout.serving.options import Prediction
from rollout.serving.scheduler import euler_schedule
from rollout.serving.template import load_template
from rollout.serving.tokenizer import END_TOKEN, START_TOKEN, tokenize
from rollout.serving.weights import TensorSpec, generate_weights


def _spec(name: str, *, offset: int, std: float = 2.0, count: int = 4096) -> TensorSpec:
    return TensorSpec(name=name, shape=(count,), offset=offset, mean=0.0 if std else 1.5, std=std)


def test_generated_weights_are_the_ones_the_manifest_pins():
    template = load_template()
    assert digest_bytes(generate_weights(template.tensors, seed=template.seed)) == template.weights_digest


def test_generated_weights_have_the_distribution_asked_for():
    values = np.frombuffer(generate_weights([_spec("a", offset=0, count=100_000)], seed=1), dtype="<f4")
    assert abs(values.mean()) < 0.03
    assert abs(values.std() - 2.0) < 0.02


def test_a_constant_tensor_is_constant():
    content = generate_weights([_spec("a", offset=0, std=0.0)], seed=1)
    assert set(np.frombuffer(content, dtype="<f4")) == {1.5}


def test_a_tensor_does_not_depend_on_its_neighbours():
    alone = generate_weights([_spec("b", offset=0)], seed=1)
    both = generate_weights([_spec("a", offset=0), _spec("b", offset=4 * 4096)], seed=1)
    assert both[4 * 4096 :] == alone


@pytest.mark.parametrize("offset", [4 * 4096 - 64, 4 * 4096 + 4], ids=["overlapping", "unaligned"])
def test_a_bad_tensor_layout_is_refused(offset):
    with pytest.raises(ValueError, match="overlapping or not aligned"):
        generate_weights([_spec("a", offset=0), _spec("b", offset=offset)], seed=1)


def test_tokens_are_those_of_clips_tokenizer_without_merges():
    # Made with transformers' CLIPTokenizer over the 514-entry vocabulary and an empty merges file.
    assert tokenize("A red cat's hat, 3 dogs!")[:14].tolist() == [
        *[512, 320, 81, 68, 323, 66, 64, 339, 6, 338, 71, 64, 339, 267],
    ]
    assert tokenize("größe_ 42 日本")[:14].tolist() == [
        *[512, 70, 81, 127, 114, 127, 253, 324, 318, 275, 273, 162, 245, 98],
    ]


def test_every_text_fills_the_context_exactly():
    for text in ("", "x" * 4000, "a b"):
        tokens = tokenize(text)
        assert tokens.shape == (77,)
        assert tokens[0] == START_TOKEN
        assert tokens[-1] == END_TOKEN


def test_noise_levels_are_those_of_diffusers():
    # diffusers 0.42 EulerDiscreteScheduler, scaled_linear, linspace, 8 steps; it computes in float32, we in float64.
    expected = [14.614647, 6.678018, 3.522064, 2.060643, 1.276833, 0.791261, 0.439667, 0.02916716, 0.0]
    np.testing.assert_allclose(euler_schedule(steps=8, prediction=Prediction.EPSILON).sigmas, expected, rtol=2e-6)


def test_knowing_the_noise_exactly_recovers_the_clean_latents():
    schedule = euler_schedule(steps=8, prediction=Prediction.EPSILON)
    rng = np.random.default_rng(5)
    clean, noise = rng.standard_normal((2, 4, 8, 8), dtype=np.float32)
    latents = clean + schedule.initial_latents(noise)
    for step in range(8):
        latents = schedule.advance(latents, noise, step=step)
    np.testing.assert_allclose(latents, clean, atol=1e-4)


def test_knowing_the_velocity_exactly_recovers_the_clean_latents():
    schedule = euler_schedule(steps=8, prediction=Prediction.V_PREDICTION)
    rng = np.random.default_rng(5)
    clean, noise = rng.standard_normal((2, 4, 8, 8), dtype=np.float32)
    latents = clean + schedule.initial_latents(noise)
    for step in range(8):
        sigma = schedule.sigmas[step]
        velocity = (noise - sigma * clean) / np.sqrt(sigma**2 + 1)
        latents = schedule.advance(latents, velocity, step=step)
    np.testing.assert_allclose(latents, clean, atol=1e-4)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps"):
        euler_schedule(steps=0, prediction=Prediction.EPSILON)
