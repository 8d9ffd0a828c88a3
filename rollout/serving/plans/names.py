"""Names of the files that belong to a model: relative, inside its folder, the same on every system."""

from pathlib import Path

from rollout.serving.plans.faults import PlanFault, plan_error


def fault_of_name(name: str) -> str:
    """Return what is wrong with a file name that a model or a manifest gives; empty where nothing is.

    Two dots are refused wherever they stand, as TensorRT's provider does when it loads.
    """
    if not name.strip():
        return "is empty"
    if name.startswith("/") or name[1:2] == ":":
        return "is an absolute path"
    if ".." in name:
        return "holds '..', which may lead out of the folder"
    if "\\" in name or not name.isprintable():
        return "holds a backslash or a character that cannot be printed"
    if any(part in ("", ".") for part in name.removeprefix("./").split("/")):
        return "has an empty part"
    return ""


def locate_inside(folder: Path, name: str) -> Path:
    """Return the path of a file that a model names, after checking that it is there and inside the model's folder.

    Raises:
        PlanError: onnx_path_unsafe or plan_object_missing.
    """
    fault = fault_of_name(name)
    if fault:
        raise plan_error(PlanFault.ONNX_PATH_UNSAFE, f"the model names the file {name!r}, which {fault}")
    path = folder / name
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
        present = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # A circle of links, or a name that no system takes.
        raise plan_error(PlanFault.ONNX_PATH_UNSAFE, f"{path} cannot be followed: {error}") from error
    if not inside:
        raise plan_error(PlanFault.ONNX_PATH_UNSAFE, f"{path} is a link that leads out of {folder}")
    if not present:
        raise plan_error(PlanFault.OBJECT_MISSING, f"{path} is named by the model and is not there")
    return path
