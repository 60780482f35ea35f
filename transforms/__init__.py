"""What happens to the data, from a shard's bytes to maps and their statistics."""
