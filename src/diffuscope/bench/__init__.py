"""What this machine does with a model: each network, whole calls, memory, and other programs in the same run."""
