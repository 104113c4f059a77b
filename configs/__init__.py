"""What a pipeline is: pydantic models, their loading from YAML, and one YAML file a pipeline."""
