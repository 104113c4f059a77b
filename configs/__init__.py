"""Pipeline configs: the pydantic models, their loading from YAML, and one YAML file per bundled pipeline."""
