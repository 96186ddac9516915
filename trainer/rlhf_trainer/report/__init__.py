"""What a stage says while it runs: metrics and health in; files, the progress endpoint and curves out."""
