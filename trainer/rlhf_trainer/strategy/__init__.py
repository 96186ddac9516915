"""How training state is spread over workers: one interface over plain PyTorch and Colossal-AI's plugins."""
