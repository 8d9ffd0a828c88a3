"""All collectors of facts about the machine and the container, and which of them a probe asks again."""

from rollout.serving.collectors.builds import BUILDS
from rollout.serving.collectors.container import CONTAINER
from rollout.serving.collectors.driver import DRIVER
from rollout.serving.collectors.environment import ENVIRONMENT
from rollout.serving.collectors.interface import Collector
from rollout.serving.collectors.nvml import NVML
from rollout.serving.collectors.packages import PACKAGES
from rollout.serving.collectors.tensorrt import TENSORRT

COLLECTORS: tuple[Collector, ...] = (NVML, DRIVER, TENSORRT, BUILDS, PACKAGES, ENVIRONMENT, CONTAINER)

DEVICE_COLLECTORS: tuple[Collector, ...] = (NVML, DRIVER)
"""What a probe asks again while the server runs: devices vanish from running containers."""
