"""What people see: figures, explorers, checks of exercises."""
