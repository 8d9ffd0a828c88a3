"""Files that people write: read strictly, with file, line and key for every fault; their JSON Schemas."""
