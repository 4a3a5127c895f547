"""Links: transfers, and how those under way at once share what they cross."""
