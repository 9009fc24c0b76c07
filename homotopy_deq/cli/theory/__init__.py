"""Studies of what is known of DEQs in the limit of width, of training and of both."""
