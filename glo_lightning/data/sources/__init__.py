"""Sources of images, by the format that they lie in."""
