"""JSON-RPC 2.0 on ``/ws``: publish, subscribe, consume and call over one connection. See ../README.md."""
