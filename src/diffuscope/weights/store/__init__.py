"""Files of tensors: checked before they are read, sharded, packed, and put into a network."""
