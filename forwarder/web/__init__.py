"""What people and vendors reach by HTTP."""
