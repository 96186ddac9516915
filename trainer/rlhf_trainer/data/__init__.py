"""From a user's rows to tensors: parse, render, tokenise, store (Prepare); order, pack, collate (the training stages)."""
