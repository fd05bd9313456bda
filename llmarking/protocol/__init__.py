"""Bodies of requests and responses, and errors as bodies: pydantic at the wire only."""
