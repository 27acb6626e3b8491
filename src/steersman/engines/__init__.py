"""Engines that carry out plans where plain forward hooks do not reach; each is a folder of its own."""
