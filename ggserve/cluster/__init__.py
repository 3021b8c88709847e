"""The same app on Ray Serve: gateways, replicas, and the path of a request between them."""
