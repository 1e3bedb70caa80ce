"""The native pool protocol without sockets: frames, messages, and what is legal when.

Imports nothing but the standard library, so that it can be read, tested and reimplemented by
itself. docs/protocols.md is its specification.
"""
