"""What wires stand on: the HTTP listener, its mount table, the guard at its door, the WebSocket protocol."""
