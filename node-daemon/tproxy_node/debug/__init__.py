"""What a node says about itself: the questions, who may ask them, and the answers."""
