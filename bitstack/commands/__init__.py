"""What `compress-model` takes and prints: one file a command, with its tables. The only room that
prints; computes nothing."""
