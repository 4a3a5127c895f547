"""A trace by itself: what it is like, what generator fits it, and the same in other formats."""
