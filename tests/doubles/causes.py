"""What is wrong in each fault world, as the reason that an admission names first."""

CAUSES = {
    "cuda_libraries_missing": "cuda_libraries_missing",
    "libcuda_missing": "libcuda_missing",
    "driver_too_old": "driver_too_old",
    "no_device": "no_device",
    "stub_libcuda": "libcuda_stub",
    "driver_mismatch": "driver_mismatch",
    "forward_compat_refused": "driver_mismatch",
    "fabric_manager_down": "driver_failed",
    "device_access_lost": "driver_failed",
    "tensorrt_missing": "tensorrt_missing",
    "both_ort_packages": "ort_packages_conflict",
    "ep_context_without_provider": "engine_provider_missing",
}
"""World to the code that stands first among what blocks."""
