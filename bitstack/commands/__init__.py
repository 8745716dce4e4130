"""What `compress-model` takes and prints: one file for each command, with its tables. Only this
room prints. It computes nothing; every command calls one function of another room."""
