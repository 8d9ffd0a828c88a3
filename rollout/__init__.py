"""Blue/green rollouts for GPU inference that prove acceleration before traffic moves."""

__version__ = "0.1.0"
