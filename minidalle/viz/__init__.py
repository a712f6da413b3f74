"""Pictures of what goes on inside: plots, pages to hover over, and widgets."""
