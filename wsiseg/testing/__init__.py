"""What tests need: contracts to subclass, slides made on the spot, files that are broken.

Nothing here is imported by the program itself.
"""
