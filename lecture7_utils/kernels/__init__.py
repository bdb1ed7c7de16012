"""What looks: one method of the lecture in each module."""
