"""Lists of packages are read as pip writes them."""

import pytest

from rollout.errors import ConfigError
from rollout.model.packages import package_name, parse_packages


@pytest.mark.parametrize(
    ("line", "name", "version"),
    [
        ("onnxruntime_gpu-1.31.1-cp311-cp311-manylinux_2_28_x86_64.whl", "onnxruntime-gpu", "1.31.1"),
        ("wheels/torch-2.13.0+cu130-cp311-cp311-linux_x86_64.whl", "torch", "2.13.0+cu130"),
        ("https://host/torch-2.13.0%2Bcu130-cp311-cp311-linux_x86_64.whl#sha256=aa", "torch", "2.13.0+cu130"),
        ("tensorrt-10.13.3-1-py3-none-any.whl", "tensorrt", "10.13.3"),
        ("torch==2.13.0", "torch", "2.13.0"),
        ("Torch===2.13.0", "torch", "2.13.0"),
        ("onnxruntime_gpu == 1.31.1", "onnxruntime-gpu", "1.31.1"),
        ("onnxruntime-gpu[cuda,cudnn]==1.31.1 ; sys_platform == 'linux'", "onnxruntime-gpu", "1.31.1"),
        ("torch==2.13.0 \\", "torch", "2.13.0"),
        ("torch==2.13.0 --hash=sha256:aa", "torch", "2.13.0"),
        ("torch==2.13.0  # the one that was measured", "torch", "2.13.0"),
        ("torch (==2.13.0)", "torch", "2.13.0"),
        ("onnxruntime-gpu>=1.20,<2", "onnxruntime-gpu", ">=1.20,<2"),
        ("torch==2.13.*", "torch", "2.13.*"),
        ("torch", "torch", "no version"),
        ("torch @ git+https://user:secret@host/torch", "torch", "from a URL"),
        ("torch @ file:///wheels/torch-2.13.0-cp311-cp311-linux_x86_64.whl", "torch", "2.13.0"),
        ("-e git+https://host/x@abc#egg=Onnx_Runtime", "onnx-runtime", "an editable install"),
    ],
)
def test_a_line_gives_a_package_and_its_version(line, name, version):
    assert parse_packages([line]) == {name: (version,)}


@pytest.mark.parametrize("why", ["install with no version control", "Git install with no remote"])
def test_pip_names_an_editable_install_in_the_comment_above_it(why):
    lines = [f"# Editable {why} (Onnx_Runtime==1.0)", "-e /src/ort", "torch==2.13.0"]
    assert parse_packages(lines) == {"onnx-runtime": ("an editable install",), "torch": ("2.13.0",)}


@pytest.mark.parametrize(
    "line", ["", "   ", "# torch==1.0", "--hash=sha256:aa", "--index-url https://host", "-i https://h"]
)
def test_comments_and_options_are_no_packages(line):
    assert parse_packages([line]) == {}


@pytest.mark.parametrize(
    "line",
    ["-r more.txt", "--requirement=more.txt", "-c limits.txt", "-e .", "torch 2.13.0", "a-1.0.whl", "==1.0", "<html>"],
)
def test_a_line_that_hides_packages_or_is_none_is_refused_by_number_and_not_repeated(line):
    with pytest.raises(ConfigError, match=r"^line 2: ") as caught:
        parse_packages(["torch==2.13.0", line])
    assert line not in str(caught.value)


def test_a_package_that_stands_twice_has_both_versions():
    assert parse_packages(["torch==2.13.0", "torch==2.12.0", "torch==2.13.0"]) == {"torch": ("2.13.0", "2.12.0")}


def test_names_are_normalised_as_pep_503_says():
    assert package_name("Onnxruntime__GPU.-x") == "onnxruntime-gpu-x"
