"""MAP-Net (2008.05333): a network proposes which positions to mask."""
