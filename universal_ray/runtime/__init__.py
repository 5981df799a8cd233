"""How work gets done: tasks, who does them, on what, and how far they are."""
