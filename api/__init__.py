"""HTTP and nothing else: endpoints, schemas, errors, streaming. Knows no engine."""
