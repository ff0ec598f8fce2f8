"""What differs between TensorFlow, JAX and Torch, or touches the process.

Custom gradients and compiled functions, training on several devices, private
names of Keras, and every effect on the process (TensorFloat-32, malloc). May
import `checks` only.
"""
