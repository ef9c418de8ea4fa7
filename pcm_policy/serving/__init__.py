"""The side of control that has the policy: planning, batching, the server."""
