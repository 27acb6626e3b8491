"""How the embedded demo model is made: its corpus, tokenizer, training and the measurement of what it can do."""
