"""Workers: queues, steps, caches, the times of a step and the leaps over many."""
