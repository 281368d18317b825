"""What the processes of one service share: rate limits, and the clearing of caches."""
