"""Formats other than JSON: text and bytes ↔ the JSON-like builtins that a `Codec` takes, guided by the type tree.

Pure: no protocol, no event loop. Whatever a body holds, only `Invalid`, `TooLarge` and `Unsupported` are raised.
"""
