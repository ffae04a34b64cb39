"""Folders of images: listed, split, decoded, and why some are left out."""
