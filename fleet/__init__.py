"""What makes many servers of a model one: gateways, replicas, the way of a request between them."""
