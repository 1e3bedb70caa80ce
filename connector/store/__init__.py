"""Objects: one narrow interface, and the stores that keep its promises."""
