"""The gates' names, as verdicts carry them; importing this costs nothing, importing a gate costs its statistics."""

CAPABILITIES = "capabilities"
DRIFT = "drift"
ERRORS = "errors"
LATENCY = "latency"
LIVE = "live"
PICTURES = "pictures"
