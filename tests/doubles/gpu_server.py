"""A reference server under profile `gpu` on doubled drivers: `gpu_server.py CACHE`; each line on stdin is `NAME=VALUE`.

No double computes, so the pictures come from the CPU engine and the proof is cut short: admitted are the devices that
the real collectors read, and a measure of pace. All that comes after the admission is the real process. The lines
change the environment of the collectors' children, which is how a device vanishes.
"""

import os
import sys
import threading
from pathlib import Path

from rollout.files.load import load_admission
from rollout.model.snapshot import SNAPSHOT_SCHEMA, CapabilitySnapshot, ok
from rollout.serving import process
from rollout.serving.engines.ort import load_ort
from rollout.serving.liveness import read_devices
from rollout.serving.options import ServeOptions
from rollout.serving.proof import Proof
from rollout.serving.snapshot import DEVICE_TIME_FIELD
from rollout.serving.subject import PictureSubject

PERIOD_S = 0.2


def proven(options):
    fields = read_devices(limit_s=30)
    measured = {DEVICE_TIME_FIELD: ok(1.0, "a double")}
    snapshot = CapabilitySnapshot.model_validate(
        {"schema": SNAPSHOT_SCHEMA, "fields": dict(fields), "measurements": measured}
    )
    development = ServeOptions(
        port=1, pod_uid="double", cache=options.cache, admission=load_admission("development-cpu").policy
    )
    subject = PictureSubject(engine=load_ort(development))
    return Proof(policy=options.admission, snapshot=snapshot, findings=(), subject=subject)


def listen():
    for line in sys.stdin:
        name, _, value = line.strip().partition("=")
        os.environ[name] = value


if __name__ == "__main__":
    options = ServeOptions(
        port=int(os.environ["PORT"]),
        pod_uid="double",
        cache=Path(sys.argv[1]),
        admission=load_admission("gpu").policy,
    )
    process.prove = lambda *_arguments, **_more: proven(options)
    process.PERIOD_S = PERIOD_S
    threading.Thread(target=listen, daemon=True).start()
    sys.exit(process.run_server(options))
