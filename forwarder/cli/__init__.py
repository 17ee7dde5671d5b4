"""The commands: what people type, what they read, and how a command ends."""
