"""The same app on Ray Serve: gateways, replicas, and the way of a request between them."""
