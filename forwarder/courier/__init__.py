"""Everything that is Courier's: its wire shapes, signature and REST API."""
