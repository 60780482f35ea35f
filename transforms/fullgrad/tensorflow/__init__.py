"""Everything in the method that knows TensorFlow: gradients, compilation, folding, and native operations."""
