"""What the writer thread does: everything that changes the database, inside its transactions."""
