"""GPUs, links and the fabric that joins them."""
