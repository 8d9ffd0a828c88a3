"""Names on the wire between the controller, the router and a serving process."""

HEADER_POD_UID = "x-rollout-pod-uid"
"""Set by the server on every answer: the instance that computed it."""

HEADER_SNAPSHOT_DIGEST = "x-rollout-snapshot-digest"
"""Set by the server on every answer once its capability snapshot is verified."""

HEADER_PROVIDER = "x-rollout-provider"
"""Set by the server on every answer with pictures: such as CUDAExecutionProvider or torch:cuda:0."""

HEADER_GPU_MEMORY = "x-rollout-gpu-memory-bytes"
"""Set by the server on an answer with pictures: memory in use on all GPUs that the container sees, by anybody, in a
sample that is at most a few seconds old; absent where there is none."""

HEADER_COLOR = "x-rollout-color"
"""Set by the router on every answer, also on 503 and 504: the slot that the request was sent to."""

HEADER_SEND_TO = "x-rollout-send-to"
"""Set by a client on a request through the router: reach this slot whatever the weights are."""

SERVER_TIMING = "server-timing"
"""W3C Server-Timing; durations in milliseconds: queue, text, unet, vae, png, device, total.

`total` includes the queue and all phases. `device` is no further part of it: of text, unet and vae, what was spent
inside the runtime's calls, copies included (`Engine.device_s`)."""

ENV_POD_UID = "ROLLOUT_POD_UID"
"""Environment of a serving process: its instance uid, echoed in every answer."""

ENV_PORT = "PORT"
"""Environment of a serving process: the TCP port to listen on."""

PATH_IMAGES = "/v1/images/generations"
PATH_CAPABILITIES = "/v1/capabilities"
PATH_HEALTH = "/healthz"
PATH_READY = "/readyz"
PATH_METRICS = "/metrics"
