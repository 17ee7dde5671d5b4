"""What vendors and SDKs reach by HTTP: the public listener, its endpoints and its health."""
