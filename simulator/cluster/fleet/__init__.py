"""The fleet: lives of workers, and the plans, faults and policies that change them."""
