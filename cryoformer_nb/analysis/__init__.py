"""What came out: latents, flexible regions, scores, pose histories."""
