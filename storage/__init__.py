"""Records, paths and files: the only package that knows where anything lies under the root."""
