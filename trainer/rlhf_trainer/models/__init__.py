"""Models in and out: loading, heads, adapters, export, presets."""
