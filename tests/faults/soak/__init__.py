"""The soak: workers, publishers and one fault after another, for as long as you like, and a checker at the end."""
