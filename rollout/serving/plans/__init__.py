"""Engine plans: what TensorRT compiled, pinned by digest, so that no server compiles at load."""
