import multiprocessing
from pathlib import Path

import pytest

from rollout.errors import ConfigError
from rollout.model.canonical import digest_bytes
from rollout.serving.model_cache import load_converted_unet, load_weights
from rollout.serving.options import Precision
from rollout.serving.template import Part, load_template


def _weights_file(cache: Path) -> Path:
    (found,) = (cache / "models").glob("weights-*.bin")
    return found


def _load_and_report(cache: Path, digests: "multiprocessing.Queue[str]") -> None:
    digests.put(digest_bytes(load_weights(load_template(), cache=cache)))


def test_a_corrupt_weights_file_is_made_anew(tmp_path, caplog):
    template = load_template()
    good = load_weights(template, cache=tmp_path)
    path = _weights_file(tmp_path)
    path.write_bytes(good[:1000] + b"\xff" + good[1001:])
    assert load_weights(template, cache=tmp_path) == good
    assert path.read_bytes() == good
    assert "making it anew" in caplog.text


def test_a_truncated_weights_file_is_made_anew(tmp_path):
    template = load_template()
    good = load_weights(template, cache=tmp_path)
    _weights_file(tmp_path).write_bytes(good[:-1])
    assert load_weights(template, cache=tmp_path) == good


def test_a_whole_weights_file_is_not_written_again(tmp_path):
    template = load_template()
    load_weights(template, cache=tmp_path)
    before = _weights_file(tmp_path).stat()
    load_weights(template, cache=tmp_path)
    assert _weights_file(tmp_path).stat().st_mtime_ns == before.st_mtime_ns


def test_what_a_killed_server_left_half_written_is_never_used(tmp_path):
    template = load_template()
    folder = tmp_path / "models"
    folder.mkdir()
    name = f"weights-{template.weights_digest.removeprefix('sha256:')[:16]}.bin.partial"
    (folder / name).write_bytes(b"half")
    assert digest_bytes(load_weights(template, cache=tmp_path)) == template.weights_digest


def test_servers_that_start_at_once_all_get_the_pinned_weights(tmp_path):
    context = multiprocessing.get_context("spawn")
    digests = context.Queue()
    starters = [context.Process(target=_load_and_report, args=(tmp_path, digests)) for _ in range(3)]
    for starter in starters:
        starter.start()
    found = [digests.get(timeout=60) for _ in starters]
    for starter in starters:
        starter.join(timeout=60)
    assert set(found) == {load_template().weights_digest}
    assert [path.name for path in (tmp_path / "models").glob("*.partial")] == []


def test_a_cache_that_cannot_be_a_folder_is_refused_with_advice(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ConfigError, match="--cache"):
        load_weights(load_template(), cache=blocked)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.FP16])
def test_a_corrupt_converted_model_is_made_anew(tmp_path, precision):
    template = load_template()
    weights = load_weights(template, cache=tmp_path)
    good = load_converted_unet(template.graphs[Part.UNET], weights, precision=precision, cache=tmp_path)
    (path,) = (tmp_path / "models").glob("unet-*.onnx")
    path.write_bytes(b"not a model")
    assert load_converted_unet(template.graphs[Part.UNET], weights, precision=precision, cache=tmp_path) == good
