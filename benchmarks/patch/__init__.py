"""What `jaxqr.patch` is worth: JAX's own functions against themselves with the package below."""
