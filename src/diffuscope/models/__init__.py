"""The networks, and the tokenizer: pure functions of their inputs. They know no noise level and no file."""
