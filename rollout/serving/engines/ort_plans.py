"""The UNet's engine plan, where a policy orders TensorRT: taken from the store by its key, never built here."""

from pathlib import Path

from rollout.model.canonical import digest_json
from rollout.model.snapshot import Capability
from rollout.model.verdict import Reason
from rollout.serving.collectors.isolated import read_isolated
from rollout.serving.collectors.nvml import NVML
from rollout.serving.collectors.tensorrt import TENSORRT
from rollout.serving.failures import AdmissionError
from rollout.serving.options import ServeOptions
from rollout.serving.plans.faults import PlanError
from rollout.serving.plans.key import PlanKey, differing, parse_sm
from rollout.serving.plans.store import PlanStore
from rollout.serving.template import WEIGHTS_LOCATION, ModelTemplate, Part


def place_unet(template: ModelTemplate, options: ServeOptions, *, folder: Path) -> Path:
    """Copy the plan for this machine into a folder and return the EPContext model to open.

    Raises:
        AdmissionError: TensorRT or the GPU cannot be named, or no sound plan is stored; `code` is that of the plan.
        ConfigError: The store is none.
    """
    limit_s = options.admission.probe_s
    wanted = wanted_key(
        template,
        options,
        tensorrt=read_isolated(TENSORRT, limit_s=limit_s)["runtime.tensorrt.version"],
        capabilities=read_isolated(NVML, limit_s=limit_s)["gpu.compute_capability"],
    )
    if options.plans is None:
        text = f"the policy orders TensorRT: give the folder of engine plans with --plans; wanted is {wanted.text()}"
        raise AdmissionError(text, code="plan_missing")
    return place(PlanStore(options.plans), wanted, folder=folder)


def wanted_key(
    template: ModelTemplate, options: ServeOptions, *, tensorrt: Capability, capabilities: Capability
) -> PlanKey:
    """Return the key of the plan that this release needs on this machine; its TensorRT build number is 0: any.

    Raises:
        AdmissionError: TensorRT is not there, or NVML names no GPU.
    """
    if not isinstance(tensorrt.value, str):
        raise AdmissionError(f"TensorRT's version is {tensorrt.status}: {tensorrt.reason}", code="tensorrt_missing")
    if not isinstance(capabilities.value, list):
        text = f"gpu.compute_capability is {capabilities.status}: {capabilities.reason}"
        raise AdmissionError(text, code="field_not_collected")
    files = {WEIGHTS_LOCATION: template.weights_digest}
    return PlanKey(
        # As `digest_model` reads the same graph and weights from a folder.
        model=digest_json({"graph": template.graph_digests[Part.UNET], "external": files}),
        width=options.side_max,
        height=options.side_max,
        batch=1,
        precision=options.precision,
        tensorrt=f"{tensorrt.value}.0",
        sm=parse_sm(capabilities.value[0]),
    )


def place(store: PlanStore, wanted: PlanKey, *, folder: Path) -> Path:
    """Copy the plan of a key, with any build of its TensorRT version, into a folder.

    Raises:
        AdmissionError: There is none, or it must not be loaded.
        ConfigError: The store is none.
    """
    version = wanted.tensorrt.rpartition(".")[0]
    try:
        for plan in store.list_plans().plans:
            same_build = wanted.model_copy(update={"tensorrt": plan.key.tensorrt})
            if plan.key.tensorrt.rpartition(".")[0] == version and not differing(same_build, plan.key):
                wanted = same_build
        found = store.find(wanted)
        if isinstance(found, Reason):
            raise AdmissionError(found.text, code=found.code)
        return store.place(found, folder)
    except PlanError as error:
        raise AdmissionError(str(error), code=error.code) from error
