"""The commands of ``tapeconnector``: each parses, calls one function, prints."""
