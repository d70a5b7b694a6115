"""The contenders, each as its users would write it. Imports at the top of a module are not timed."""
