"""Traffic: where requests come from, how they enter, and how they end."""
