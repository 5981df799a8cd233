"""The study as users configure it, and what a change of it means."""
