"""What is looked at: photos, scenes and networks."""
