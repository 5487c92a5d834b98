"""The tab "ImageReward library": your pictures by score, duels between them, and the taste that learns from these."""
