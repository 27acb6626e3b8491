"""Does a sweep find what is there, and nothing else? Models whose weights carry a known direction at a known layer."""
