"""Models of other programs as cards and weights: nnU-Net, MONAI, Raidionics.

Their files are read as data. What a card cannot say faithfully is refused by name.
"""
