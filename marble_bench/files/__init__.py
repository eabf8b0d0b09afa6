"""The one door to disk and network: caches, whole writes, locks, downloads, readers of text tables."""
