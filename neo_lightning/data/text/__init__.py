"""Conversations as token ids: the tokenizer, turns and placeholders, one layout for facts and for pixels."""
