"""On-tape formats: layouts (``*_layout.py``) apart from the logic that walks them."""
